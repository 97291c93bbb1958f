"""Whether the weights of a model are as an initialisation left them: only then may they be drawn anew."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unstuck.measure.measurement import Measurement

WEIGHTED = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""Layers whose weights are judged, and drawn anew."""
FEWEST = 16
"""Weights with fewer numbers are not judged by their distribution."""
TOLERANCE = 0.25
"""Relative difference between the deviation of a uniform distribution and that of its numbers."""
LARGEST = 5.0
"""Largest change of a number in a step, over the root mean square of the changes."""


def may_be_redrawn(model: nn.Module, measurement: Measurement) -> bool:
    """Whether no weight has been trained, but for the step that was measured, and all can be drawn anew."""
    moved = {
        weight.name: LARGEST * weight.update * weight.size / math.prod(weight.shape) ** 0.5
        for weight in measurement.weights
        if measurement.step is not None and weight.update
    }
    return not measurement.step and can_be_redrawn(model) and is_untrained(model, moved)


def can_be_redrawn(model: nn.Module) -> bool:
    """Whether the weights of all layers are parameters, and not computed from others."""
    layers = [module for module in model.modules() if isinstance(module, WEIGHTED)]
    return all("weight" in dict(layer.named_parameters(recurse=False)) for layer in layers)


@torch.no_grad()
def is_untrained(model: nn.Module, moved: Mapping[str, float] | None = None) -> bool:
    """Whether no layer can have been trained, but for a first step.

    The numbers of a trained weight may look like initial ones. But a step moves every bias, and moves numbers over the
    edge of a uniform distribution. A layer is untrained if its bias is constant, or if its weight is within PyTorch's
    default bounds and fills them; with weights of another size, its bias must. If a bias is too short to tell, that of
    another layer has to. All others may have been trained. `moved` says how far at most a first step has moved the
    numbers of a parameter, by its name.
    """
    moved = moved or {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (*WEIGHTED, nn.RNNBase))}
    own = {
        name: max((moved.get(f"{name}.{n}", 0.0) for n, _ in m.named_parameters()), default=0.0)
        for name, m in layers.items()
    }
    found = [_is_initial(layer, own[name]) for name, layer in layers.items()]
    return True in found and False not in found


def _is_initial(layer: nn.Module, moved: float) -> bool | None:
    """Whether the weights of a layer are initial ones; None if nothing speaks against it."""
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
    if not isinstance(bias, Tensor) or not _within(bias, bound):
        return False
    return _fills(bias, bound) if len(bias) >= FEWEST else None


def _within(values: Tensor, bound: float) -> bool:
    return float(values.abs().max()) <= bound * (1 + torch.finfo(values.dtype).eps)


def _fills(values: Tensor, bound: float) -> bool:
    """Whether the numbers have the deviation of a uniform distribution between -bound and bound."""
    return abs(float(values.float().std()) * 3**0.5 / bound - 1) < TOLERANCE


def _is_constant(bias: Tensor) -> bool:
    return bool((bias == bias[0]).all()) and (len(bias) > 1 or bool(bias == 0))
