"""What commutes with a constant: operations that let it pass, and layers that take it into their weights.

Let f > 0 and b be numbers. An operation g lets a **factor** pass if g(f x) = f g(x), and an **offset** if
g(x + b) = g(x) + b. Every convolution, pooling, sum and reordering does the first; the second needs weights that add
up to 1 for every output, so that an average without padding does it, and dropout in training does not. A factor or an
offset for each feature passes along the axis of features only, and only what keeps that axis as it is.

Everything that is not in these tables is taken to commute with nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn

from sigmoidcore._torch.modules import has_hooks
from sigmoidcore.calibration.orthogonal import TRANSPOSED, WEIGHTED
from sigmoidcore.conversion.activations import called
from sigmoidcore.conversion.dataflow import features_of

NORMS = {nn.LayerNorm, nn.GroupNorm}
NORMS |= {getattr(nn, f"{kind}Norm{n}d") for kind in ("Batch", "Instance") for n in (1, 2, 3)}
RECURRENT = {nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell}
PRODUCERS: set[type[nn.Module]] = {*WEIGHTED, *NORMS}  # they take a factor and an offset of their output in
CONSUMERS: set[type[nn.Module]] = {*WEIGHTED, *RECURRENT}  # a factor of their input; a norm's epsilon would not scale


@dataclass(frozen=True)
class Passage:
    """How a constant passes an operation."""

    data: tuple[fx.Node, ...]  # the inputs that it passes from; they must all carry the same factor
    offset: bool = False  # whether an offset passes, too
    axes: frozenset[int] | None = frozenset()  # of features that stay as they are; None: all. Empty: one constant only
    adds: bool = False  # the operation adds its inputs: an offset of the result is one of the first input


def passage(node: fx.Node, modules: Mapping[str, nn.Module]) -> Passage | None:
    """How a constant passes this node of a graph; None: not at all."""
    if node.op == "call_module":
        rule = _module_rule(modules[str(node.target)])
        return None if rule is None else _first_input(node, *rule)
    rule_of = _CALLS.get(called(node))
    return None if rule_of is None else rule_of(node)


def output_axes(layer: nn.Module) -> set[int]:
    """The dimensions along which the output of a producer has its features; from the front it is [batch, channels]."""
    features = features_of(layer)
    if features is None or (isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1):
        return set()
    if isinstance(layer, nn.Linear | nn.LayerNorm):
        return {-1}
    return {1, -1, -2} if isinstance(layer, nn.BatchNorm1d) else {1, features[1]}


def spread_over_weight(layer: nn.Module, values: Tensor) -> Tensor:
    """Values of the output's features, shape [features] or [], in the layout of the layer's weight."""
    if values.dim() == 0:
        return values
    if isinstance(layer, TRANSPOSED):  # [in, out/groups, ...]: output g out/groups + j is column j of group g's rows
        rows = layer.in_channels // layer.groups
        columns = values.reshape(layer.groups, 1, -1).expand(-1, rows, -1)
        return columns.reshape(layer.in_channels, -1, *[1] * len(layer.kernel_size))
    return values.reshape(-1, *[1] * (layer.get_parameter("weight").dim() - 1))


Rule = tuple[bool, frozenset[int] | None]
_ANY: Rule = (True, None)
_FACTOR: Rule = (False, None)
_SHAPE: Rule = (True, frozenset())


def _along_channels(names: str, offset: bool) -> dict[type[nn.Module], Rule]:
    """The rule of modules that exist for one, two and three dimensions, such as `AvgPool`."""
    kinds = ((getattr(nn, f"{name}{n}d"), n) for name in names.split() for n in (1, 2, 3))
    return {kind: (offset, frozenset((1, -1 - n))) for kind, n in kinds}


_RULES: dict[type[nn.Module], Rule] = {
    nn.Identity: _ANY,
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _FACTOR),
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), _SHAPE),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), (True, frozenset((1,)))),
    **_along_channels("AvgPool AdaptiveAvgPool MaxPool AdaptiveMaxPool", offset=True),
    **_along_channels("ReflectionPad ReplicationPad CircularPad", offset=True),
    **_along_channels("ZeroPad", offset=False),
}


def _module_rule(module: nn.Module) -> Rule | None:
    rule = _RULES.get(type(module))
    if rule is None or has_hooks(module) or getattr(module, "return_indices", False):
        return None
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d):
        padded = module.count_include_pad and torch.as_tensor(module.padding).any()
        if padded or getattr(module, "divisor_override", None):
            return False, rule[1]  # the weights of an average do not add up to 1 at the border
    return rule


def _first_input(node: fx.Node, offset: bool, axes: frozenset[int] | None = frozenset()) -> Passage | None:
    """An operation on its first argument; the others say how."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node) or node.kwargs.get("return_indices") or "out" in node.kwargs:
        return None
    return Passage((first,), offset, axes)


def _joined(node: fx.Node) -> Passage | None:
    tensors = node.args[0] if node.args else None
    if "out" in node.kwargs or not isinstance(tensors, list | tuple | fx.Node):
        return None
    if isinstance(tensors, fx.Node):  # what chunk or split gives
        return Passage((tensors,), offset=True)
    data = tuple(t for t in tensors if isinstance(t, fx.Node))
    return Passage(data, offset=True) if data and len(data) == len(tensors) else None


def _sum_of_two(node: fx.Node) -> Passage | None:
    """x + y or x - y."""
    data = tuple(a for a in node.args if isinstance(a, fx.Node))
    return Passage(data, True, None, adds=True) if len(data) == 2 == len(node.args) and not node.kwargs else None


def _times_number(node: fx.Node) -> Passage | None:
    """x * 2, 2 * x, x / 2; not 2 / x."""
    data = tuple(a for a in node.args if isinstance(a, fx.Node))
    numbers = [a for a in node.args if isinstance(a, int | float)]
    inverse = "div" in str(getattr(node.target, "__name__", node.target)) and data != node.args[:1]
    return Passage(data, False, None) if len(data) == 1 == len(numbers) and not node.kwargs and not inverse else None


def _padded(node: fx.Node) -> Passage | None:
    """F.pad: a constant must be 0."""
    names = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | dict(node.kwargs)
    constant = names.get("mode", "constant") == "constant"
    if constant and names.get("value") not in (None, 0, 0.0):
        return None
    data = names.get("input")
    return Passage((data,), not constant) if isinstance(data, fx.Node) else None


_REORDERING = (
    *("flatten", "reshape", "squeeze", "unsqueeze", "transpose", "permute", "movedim", "moveaxis", "swapaxes"),
    *("swapdims", "t", "T", "mT", "clone", "chunk", "split", "unbind", "narrow", "select", "unflatten", "roll", "flip"),
    *("getitem", "view", "contiguous", "expand", "repeat", "detach"),
)
_POOLS = [f"{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)]
_both, _factor = (partial(_first_input, offset=offset) for offset in (True, False))
_CALLS: dict[str, Callable[[fx.Node], Passage | None]] = {
    **dict.fromkeys((*_REORDERING, "mean", *(f"adaptive_{pool}" for pool in _POOLS)), _both),
    **dict.fromkeys(("sum", "dropout", "dropout1d", "dropout2d", "dropout3d", *_POOLS, "interpolate"), _factor),
    "pad": _padded,
    **dict.fromkeys(("cat", "concat", "stack"), _joined),
    **dict.fromkeys(("add", "sub"), _sum_of_two),
    **dict.fromkeys(("mul", "truediv", "div"), _times_number),
}
