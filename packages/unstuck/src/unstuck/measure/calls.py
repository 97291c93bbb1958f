"""PyTorch's functions by their names: those that make layers, move numbers, multiply or compute losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from unstuck.measure.tensor_origin import Origin
from unstuck.observation.batch import MOST_DEPTH

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
BINARY_LOSSES = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
CLASS_LOSSES = BINARY_LOSSES | {"cross_entropy", "nll_loss"}
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
MULTIPLICATIONS = frozenset({"mul", "multiply", "rmul", "imul"})
SQUARES = MULTIPLICATIONS | {"square", "pow"}
"""Functions that may square a difference."""
ADDITIONS = frozenset({"add", "radd", "iadd"})
OVERLAP = "overlap"
"""The comparison of a loss that multiplies and adds the same outputs and targets, as Dice and IoU do."""
SOFTMAXES = frozenset({"softmax", "log_softmax", "logsumexp"})
NORMS = frozenset(f"{of}_norm" for of in ("layer", "rms", "batch", "group", "instance"))
CLAMPS = frozenset({"clamp", "clip"})
SCALINGS = {"mul": 1, "div": -1, "truediv": -1}
"""Functions that multiply by a number, with its exponent."""
_CHANNELS_SECOND = ("conv", "batch_norm", "instance_norm", "group_norm", "pool", "pixel_shuffle", "interpolate")
_FEATURES_LAST = frozenset({"linear", "bilinear", "matmul", "addmm", "bmm", "embedding", "layer_norm", "rms_norm"})
_KEEP_PLACES = frozenset(
    {"to", "type", "type_as", "float", "half", "bfloat16", "double", "dropout", "alpha_dropout", "clone", "contiguous"}
)
MOVES = _KEEP_PLACES | {
    *("view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "T", "mT"),
    *("t", "transpose", "permute", "movedim", "swapaxes", "repeat_interleave"),
    *("getitem", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
}
"""Functions whose result has the numbers of their first argument, or some of them, in other places or shapes."""
OF_LOSSES = LOSSES | DIFFERENCES | MOVES
"""Functions of which a loss is made, also where another network computes it from the outputs."""


@cache
def name_of(function: Callable[..., Any]) -> str:
    """Name of a function without underscores at its ends; "" for functions that make no new tensor."""
    name = getattr(function, "__name__", "")
    if name == "__get__":  # an attribute of a tensor
        attribute = getattr(getattr(function, "__self__", None), "__name__", "")
        return attribute if attribute in MOVES else ""
    # An operator of ATen, as exported models call them, is named `linear.default`.
    return "" if name in ("__set__", "dim", "size", "stride", "numel") else name.partition(".")[0].strip("_")


def pairs_all(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether an operation of [n, 1] and [n] pairs all of them."""
    one, two = sorted((tuple(shape), tuple(other)), key=len)
    return len(one) == 1 and len(two) == 2 and two == (one[0], 1) and one[0] > 1


def named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name; `names` are those of the first ones, in order."""
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def clamps_probabilities(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the bounds of a clamp are inside of 0 and 1, as before the logarithm of a probability."""
    bounds = named(("min", "max"), args[1:], kwargs)
    low, high = bounds.get("min"), bounds.get("max")
    return isinstance(low, float) and isinstance(high, float) and 0 < low < high < 1


def is_disjoint(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is a convolution that reads each position once: its stride is its kernel, which is not 1."""
    if name not in CONVOLUTIONS:
        return False
    given = named(("input", "weight", "bias", "stride"), args, kwargs)
    stride, weight = given.get("stride"), given.get("weight")
    kernel = tuple(weight.shape[2:]) if isinstance(weight, Tensor) else ()
    strides = (stride,) * len(kernel) if isinstance(stride, int) else stride
    return isinstance(strides, tuple) and max(kernel, default=1) > 1 and strides == kernel


def dropped(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The share that a call of dropout drops."""
    given = named(("input", "p", "training"), args, kwargs)
    return float(given.get("p", 0.5)) if given.get("training", True) else 0.0


def summed_of(name: str, origins: list[Origin]) -> int:
    """The layer whose output the result of a function is, summed."""
    if len(origins) == 1 and name in ADDITIONS | MOVES:
        return origins[0].summed
    return origins[0].producer if name == "sum" else -1


@cache
def _has_channels(name: str) -> bool:
    """Whether dimension 1 of a function's result counts channels."""
    return any(part in name for part in _CHANNELS_SECOND)


def writes_in_place(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an activation may write into its input, by its name or by an argument."""
    name = getattr(function, "__name__", "").partition(".")[0]
    return name.endswith("_") or kwargs.get("inplace") is True or any(value is True for value in args[1:])


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
    if name in MOVES and name not in _KEEP_PLACES:
        return _dim_after_move(dims[0], arguments[0], output)
    alike = (dim for t, dim in zip(arguments, dims, strict=True) if t.dim() == output.dim() and dim != -1)
    return next(alike, -1)


def softmax_dim(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> int:
    """The dimension over which a softmax normalises; by default the first of 1 or 3 dimensions, else the second."""
    dim = next((value for value in (kwargs.get("dim"), *args[1:2]) if value is not None), None)
    if not isinstance(dim, int):
        return 0 if output.dim() in (0, 1, 3) else 1
    return dim % max(1, output.dim())


def _dim_after_move(dim: int, before: Tensor, after: Tensor) -> int:
    """The dimension of the features after a move: the one with the same stride if it is a view, else the last."""
    if not before.dim() or before.layout != torch.strided or before.is_nested:
        return -1
    size, stride = before.shape[dim], before.stride(dim)
    places = [i for i in range(after.dim()) if after.stride(i) == stride and 1 < after.shape[i] <= size]
    place = next((i for i in places if after.shape[i] == size), places[0] if places else -1)
    return -1 if place == after.dim() - 1 else place


def tensors(values: Any, depth: int = MOST_DEPTH) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order, down to this depth: a dict may contain itself."""
    if isinstance(values, Tensor):
        yield values
        return
    children = values.values() if isinstance(values, dict) else values if isinstance(values, tuple | list) else ()
    for child in children:
        if isinstance(child, Tensor):
            yield child
        elif isinstance(child, tuple | list | dict) and depth:
            yield from tensors(child, depth - 1)
