"""Whether the weights of a model are as an initialisation left them: only then may they be drawn anew."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import WEIGHTED

FEWEST = 16
"""Of fewer numbers, their distribution is not judged."""
TOLERANCE = 0.25
"""Relative difference between the deviation of a uniform distribution and that of its numbers."""


@torch.no_grad()
def is_untrained(model: nn.Module, moved: Mapping[str, float] | None = None) -> bool:
    """Whether no layer that `prepare` draws anew can have been trained, but for a first step.

    The numbers of a trained weight may look like initial ones. But a step moves every bias, and moves numbers over the
    edge of a uniform distribution. A layer is untrained if its bias is constant, or if its weight is within PyTorch's
    default bounds and fills them; with weights of another size, its bias must. All others may have been trained.

    Args:
        model: any.
        moved: how far at most a first step has moved the numbers of a parameter, by its name.
    """
    moved = moved or {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (*WEIGHTED, nn.RNNBase))}
    own = {
        name: max((moved.get(f"{name}.{n}", 0.0) for n, _ in m.named_parameters()), default=0.0)
        for name, m in layers.items()
    }
    return bool(layers) and all(_is_initial(layer, own[name]) for name, layer in layers.items())


def _is_initial(layer: nn.Module, moved: float) -> bool:
    if isinstance(layer, nn.RNNBase):
        bound = layer.hidden_size**-0.5
        return all(_within(p, bound + moved) and _fills(p, bound) for p in layer.parameters() if p.dim() > 1)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    bound = weight[0].numel() ** -0.5
    if isinstance(bias, Tensor) and _is_constant(bias):
        return True
    if weight.numel() < FEWEST or _fills(weight, bound):
        return _within(weight, bound + moved)
    return isinstance(bias, Tensor) and len(bias) >= FEWEST and _within(bias, bound) and _fills(bias, bound)


def _within(values: Tensor, bound: float) -> bool:
    return float(values.abs().max()) <= bound * (1 + torch.finfo(values.dtype).eps)


def _fills(values: Tensor, bound: float) -> bool:
    """Whether the numbers have the deviation of a uniform distribution between -bound and bound."""
    return abs(float(values.float().std()) * 3**0.5 / bound - 1) < TOLERANCE


def _is_constant(bias: Tensor) -> bool:
    return bool((bias == bias[0]).all()) and (len(bias) > 1 or bool(bias == 0))
