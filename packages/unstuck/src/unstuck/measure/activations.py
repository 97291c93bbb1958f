"""The activations that can be measured, with the relative slope of each at every input or output.

The *relative slope* is the absolute local derivative over the largest derivative of the activation: 4 sigma'(x) for a
sigmoid, 1 or 0 for ReLU. It is computed from the output if possible: an in-place activation overwrites its input.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.measure.measurement import Layer

SOFTMAX = ("softmax", "softmax2d")
Options = Mapping[str, Any]
Slope = Callable[[Tensor, Options], Tensor]
"""Relative slopes of inputs or outputs, [tensors, rows, ...], from these and the options of the call."""


@dataclass(frozen=True)
class MeasuredActivation:
    """One kind of activation."""

    slope: Slope
    by_output: bool = False  # the slope is computed from the output, otherwise from the input
    flat: bool = False  # a part has derivative 0: a neuron that stays there is dead
    saturates: bool = True  # a neuron whose derivative stays near 0 is saturated; those of ReLU and ELU work there
    s_shaped: bool = False  # it is bounded on both sides, and large inputs of either sign saturate it
    low: float = -math.inf  # smallest output, whatever the options
    high: float = math.inf  # largest output, whatever the options
    options: tuple[str, ...] = ()  # names of the arguments after the input that `slope` needs, in order

    def chosen(self, args: tuple[Any, ...], kwargs: Options) -> dict[str, Any]:
        """The options of a call, from its arguments after the input."""
        found = {**dict(zip(self.options, args, strict=False)), **kwargs}
        return {name: found[name] for name in self.options if name in found}

    def relative_slopes(self, values: Tensor, options: Options) -> Tensor:
        """Relative slopes, float32 or wider, of inputs or outputs (see `by_output`), [tensors, rows, ...]."""
        return self.slope(values.float() if values.dtype in (torch.float16, torch.bfloat16) else values, options)


def _above(x: Tensor, bound: float) -> Tensor:
    """1 where x is above the bound, else 0. A comparison that gives numbers at once takes a tenth of the time."""
    return torch.gt(x, bound, out=torch.empty_like(x))


def _gelu(x: Tensor, _: Options) -> Tensor:
    density = torch.exp(x.square().mul_(-0.5)).mul_(1 / math.sqrt(2 * math.pi))
    slope: Tensor = torch.special.ndtr(x).addcmul_(x, density).abs_()
    return slope / 1.1289042


def _silu(x: Tensor, _: Options) -> Tensor:
    y = torch.sigmoid(x)
    return (y * (1 + x * (1 - y))).abs() / 1.0998393


def _mish(x: Tensor, _: Options) -> Tensor:
    inner = torch.tanh(functional.softplus(x))
    slope: Tensor = (inner + x * (1 - inner.square()) * torch.sigmoid(x)).abs()
    return slope / 1.0884982


def _elu(y: Tensor, given: Options) -> Tensor:
    alpha = float(given.get("alpha", 1.0))
    return torch.where(y > 0, 1.0, y + alpha).abs_() / max(1.0, abs(alpha))


def _between(low: float, high: float) -> Slope:
    def slope(y: Tensor, given: Options) -> Tensor:
        below = torch.lt(y, given.get("max_val", high), out=torch.empty_like(y))
        return below.mul_(_above(y, given.get("min_val", low)))

    return slope


def _hardswish(x: Tensor, _: Options) -> Tensor:
    return torch.where(x < 3, ((2 * x + 3) / 6).abs() * (x > -3), 1.0) / 1.5


def _leaky(y: Tensor, given: Options) -> Tensor:
    below = abs(float(given.get("negative_slope", 0.01)))
    return _above(y, 0).mul_(1 - below).add_(below).div_(max(1.0, below))


def _rrelu(y: Tensor, given: Options) -> Tensor:
    return _leaky(y, {"negative_slope": (given.get("lower", 1 / 8) + given.get("upper", 1 / 3)) / 2})


def _prelu(x: Tensor, given: Options) -> Tensor:
    below: Tensor = given["weight"].detach().abs().to(x.dtype)
    if below.numel() > 1 and x.dim() > 2:
        below = below.reshape(-1, *[1] * (x.dim() - 3))  # channels are in dimension 2, after tensors and rows
    return torch.where(x > 0, 1.0, below) / below.clamp_min(1.0)


def _softplus(x: Tensor, given: Options) -> Tensor:
    scaled = x * given.get("beta", 1.0)
    return torch.sigmoid(scaled).maximum(_above(scaled, given.get("threshold", 20.0)))


SELU_BELOW = 1.6732632423543772
"""How much steeper SELU is just below 0 than above."""

_S_SHAPED = partial(MeasuredActivation, by_output=True, s_shaped=True)
_SIGMOID = _S_SHAPED(lambda y, _: 4 * y * (1 - y), low=0.0, high=1.0)
_UNSATURATED = partial(MeasuredActivation, saturates=False)
_SHRINK = _UNSATURATED(lambda x, g: _above(x.abs(), g.get("lambd", 0.5)), flat=True, options=("lambd",))

ACTIVATIONS: Mapping[str, MeasuredActivation] = {
    "sigmoid": _SIGMOID,
    "special_expit": _SIGMOID,
    "tanh": _S_SHAPED(lambda y, _: 1 - y.square(), low=-1.0, high=1.0),
    "softsign": _S_SHAPED(lambda y, _: (1 - y.abs()).square(), low=-1.0, high=1.0),
    "hardsigmoid": _S_SHAPED(_between(0.0, 1.0), flat=True, low=0.0, high=1.0),
    "hardtanh": _S_SHAPED(_between(-1.0, 1.0), flat=True, options=("min_val", "max_val")),
    "relu6": MeasuredActivation(_between(0.0, 6.0), by_output=True, flat=True, low=0.0, high=6.0),
    "relu": _UNSATURATED(lambda y, _: _above(y, 0), by_output=True, flat=True, low=0.0),
    "leaky_relu": _UNSATURATED(_leaky, by_output=True, options=("negative_slope",)),
    "rrelu": _UNSATURATED(_rrelu, by_output=True, options=("lower", "upper")),
    "prelu": _UNSATURATED(_prelu, options=("weight",)),
    "elu": _UNSATURATED(_elu, by_output=True, options=("alpha",)),
    "celu": _UNSATURATED(lambda x, g: torch.exp(x.clamp(max=0) / g.get("alpha", 1.0)), options=("alpha",)),
    "selu": _UNSATURATED(lambda x, _: torch.where(x > 0, 1 / SELU_BELOW, torch.exp(x.clamp(max=0)))),
    "softplus": _UNSATURATED(_softplus, low=0.0, options=("beta", "threshold")),
    "log_sigmoid": _UNSATURATED(lambda x, _: torch.sigmoid(-x), high=0.0),
    "gelu": MeasuredActivation(_gelu),
    "silu": MeasuredActivation(_silu),
    "mish": MeasuredActivation(_mish),
    "hardswish": MeasuredActivation(_hardswish, flat=True),
    "hardshrink": _SHRINK,
    "softshrink": _SHRINK,
    "tanhshrink": MeasuredActivation(lambda x, _: torch.tanh(x).square()),
    "threshold": _UNSATURATED(lambda x, g: _above(x, g["threshold"]), flat=True, options=("threshold",)),
}
"""By the function's name without underscores at its ends, which in-place ones have."""
_BY_KIND = {name.replace("_", ""): activation for name, activation in ACTIVATIONS.items()} | {
    "sshaped": _S_SHAPED(_SIGMOID.slope)
}


def activation_of(layer: Layer) -> MeasuredActivation | None:
    """The activation that a measured layer is, as a module or as a function; None if it is another kind of layer."""
    return _BY_KIND.get(layer.plain_kind)


def range_of(layer: Layer | None) -> tuple[float, float]:
    """Smallest and largest output of a layer, as far as its kind tells."""
    kind = "" if layer is None else layer.plain_kind
    activation = _BY_KIND.get(kind)
    if activation is not None:
        return activation.low, activation.high
    projected = layer is not None and any("weight_hr_" in name for name in layer.weights)
    bounded = kind.removesuffix("cell") == "lstm" and not projected  # a GRU starts at any state
    return (0.0, 1.0) if kind in SOFTMAX else (-1.0, 1.0) if bounded else (-math.inf, math.inf)
