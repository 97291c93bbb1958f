"""PyTorch's functions by their names: those that make layers, move numbers, multiply or compute losses."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from unstuck.step.node import Node

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
ATTENTION = "multi_head_attention_forward"
DOT_PRODUCT = "scaled_dot_product_attention"
PRODUCTS = frozenset({"matmul", "mm", "bmm", "baddbmm", "einsum", "tensordot", "rmatmul"})
CONVOLUTIONS = frozenset(f"conv{n}d" for n in (1, 2, 3))
WEIGHTED = (
    PRODUCTS
    | RECURRENT
    | {ATTENTION, "linear", "bilinear", "addmm", "embedding", "embedding_bag"}
    | CONVOLUTIONS
    | {f"conv_transpose{n}d" for n in (1, 2, 3)}
    | {f"{cell}_cell" for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
)
"""Functions that make a layer of a weight in their arguments."""
WITHOUT_BATCH = {"linear": 1, "conv1d": 2, "conv2d": 3, "conv3d": 4}
"""Dimensions of one sample."""
BINARY_LOSSES = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
CLASS_LOSSES = BINARY_LOSSES | {"cross_entropy", "nll_loss"}
CLASSES = {"ctc_loss": -1, "nll_loss": 1, "kl_div": -1}
"""Losses of logarithms of probabilities, with the dimension of the classes."""
REGRESSION_LOSSES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
LOSSES = (
    CLASS_LOSSES
    | REGRESSION_LOSSES
    | {"kl_div", "gaussian_nll_loss", "poisson_nll_loss", "ctc_loss"}
    | {"soft_margin_loss", "multilabel_soft_margin_loss", "multi_margin_loss"}
    | {"margin_ranking_loss", "cosine_embedding_loss", "hinge_embedding_loss"}
)
OF_TWO = frozenset({"margin_ranking_loss", "cosine_embedding_loss"})
"""Losses that take two outputs and then the targets."""
DIFFERENCES = frozenset({"sub", "subtract", "rsub"})
"""Functions by which a loss that is written by hand compares outputs with targets."""
COMPARISONS = REGRESSION_LOSSES | DIFFERENCES
"""What compares numbers with numbers."""
MULTIPLICATIONS = frozenset({"mul", "multiply", "rmul", "imul"})
ADDITIONS = frozenset({"add", "radd", "iadd"})
OVERLAP = "overlap"
"""The comparison of a loss that multiplies and adds the same outputs and targets, as Dice and IoU do."""
SOFTMAXES = frozenset({"softmax", "log_softmax", "logsumexp"})
BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""Names of the function's arguments, in order."""
NORMS = frozenset(f"{of}_norm" for of in ("layer", "rms", "batch", "group", "instance"))
ROUNDINGS = frozenset({"round", "ceil", "floor", "trunc", "fix", "sign", "sgn", "heaviside"})
"""Functions of slope 0."""
CLAMPS = frozenset({"clamp", "clip"})
SCALINGS = {"mul": 1, "div": -1, "truediv": -1}
"""Functions that multiply by a number, with its exponent."""
_CHANNELS_SECOND = ("conv", "batch_norm", "instance_norm", "group_norm", "pool", "pixel_shuffle", "interpolate")
_FEATURES_LAST = frozenset({"linear", "bilinear", "matmul", "addmm", "bmm", "embedding", "layer_norm", "rms_norm"})
KEEP_PLACES = frozenset(
    {"to", "type", "type_as", "float", "half", "bfloat16", "double", "dropout", "alpha_dropout", "clone", "contiguous"}
)
MOVES = KEEP_PLACES | {
    *("view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "T", "mT"),
    *("t", "transpose", "permute", "movedim", "swapaxes", "repeat_interleave"),
    *("getitem", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
}
"""Functions whose result has the numbers of their first argument, or some of them, in other places or shapes."""
UNSCALED = MOVES | SCALINGS.keys() | {"rmul", "normalize", "detach"}
OF_LOSSES = LOSSES | DIFFERENCES | MOVES
"""Functions of which a loss is made, also where another network computes it from the outputs."""


def pairs_all(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether an operation of [n, 1] and [n] pairs all of them."""
    one, two = sorted((tuple(shape), tuple(other)), key=len)
    return len(one) == 1 and len(two) == 2 and two == (one[0], 1) and one[0] > 1


def given(node: Node, *names: str) -> dict[str, Any]:
    """The arguments of a recorded call by name; `names` are those of the first ones, in order."""
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def is_product(node: Node) -> bool:
    """Whether a call multiplies a matrix of each sample by another one."""
    return node.function in ("matmul", "bmm") and len(node.reads) == 2 and len(node.shape) > 2


def unscaled(node: Node) -> Node:
    """What is compared, before it was moved, normalised or multiplied by a number."""
    while node.function in UNSCALED and node.reads:
        node = next((read for read in node.reads if read.shape), node.reads[0])
    return node


def clamps_probabilities(node: Node) -> bool:
    """Whether the bounds of a clamp are inside of 0 and 1, as before the logarithm of a probability."""
    bounds = given(node, "input", "min", "max")
    low, high = bounds.get("min"), bounds.get("max")
    return node.function in CLAMPS and isinstance(low, float) and isinstance(high, float) and 0 < low < high < 1


def dropped(node: Node) -> float:
    """The share that a call of dropout, or of attention, drops."""
    if node.function == DOT_PRODUCT:
        return float(node.kwargs.get("dropout_p") or 0.0)
    arguments = given(node, "input", "p", "training")
    return float(arguments.get("p", 0.5)) if arguments.get("training", True) else 0.0


@cache
def _has_channels(name: str) -> bool:
    """Whether dimension 1 of a function's result counts channels."""
    return any(part in name for part in _CHANNELS_SECOND)


def writes_in_place(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an activation may write into its input, by its name or by an argument."""
    name = getattr(function, "__name__", "").partition(".")[0]
    return name.endswith("_") or kwargs.get("inplace") is True or any(value is True for value in args[1:])


def reads_one_sample(layer: Node) -> bool:
    """Whether a layer reads one sample, without a dimension for the batch, or a cell a batch of one."""
    weights_first = layer.function in PRODUCTS and layer.reads[0].op == "parameter"
    shape = layer.reads[-1 if weights_first else 0].shape
    cell = layer.function.endswith("_cell") and shape[0] == 1
    return cell or len(shape) == (1 if weights_first else WITHOUT_BATCH.get(layer.function))


def feature_dim(name: str, arguments: list[Tensor], dims: list[int], columns: bool, output: Tensor) -> int:
    """The dimension of a function's result that counts features, from that of each argument.

    `columns`: it multiplies weights by columns of features.
    """
    if columns and name in ("matmul", "mm") and output.dim() > 1:
        return output.dim() - 2
    if name in _FEATURES_LAST or name in RECURRENT:
        return -1
    if _has_channels(name):
        return 1 if output.dim() > 2 else -1
    if name in MOVES and name not in KEEP_PLACES:
        return _dim_after_move(dims[0], arguments[0], output)
    alike = (dim for t, dim in zip(arguments, dims, strict=True) if dim != -1 and t.dim() == output.dim())
    return next(alike, -1)


def softmax_dim(node: Node) -> int:
    """The dimension over which a softmax normalises; by default the first of 1 or 3 dimensions, else the second."""
    dim = next((value for value in (node.kwargs.get("dim"), *node.args[1:2]) if value is not None), None)
    if not isinstance(dim, int):
        return 0 if len(node.shape) in (0, 1, 3) else 1
    return dim % max(1, len(node.shape))


def _dim_after_move(dim: int, before: Tensor, after: Tensor) -> int:
    """The dimension of the features after a move: the one with the same stride if it is a view, else the last."""
    if not before.dim() or before.layout != torch.strided or before.is_nested:
        return -1
    size, stride = before.shape[dim], before.stride(dim)
    places = [i for i in range(after.dim()) if after.stride(i) == stride and 1 < after.shape[i] <= size]
    place = next((i for i in places if after.shape[i] == size), places[0] if places else -1)
    return -1 if place == after.dim() - 1 else place
