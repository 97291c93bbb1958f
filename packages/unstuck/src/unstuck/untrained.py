"""Whether the weights of a model are as an initialisation left them: only then may they be drawn anew."""

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
FIRST_STEP = 0.1
"""A first step moves no number farther beyond the bound, over the bound."""


@torch.no_grad()
def may_be_redrawn(model: nn.Module, measurement: Measurement) -> bool:
    """Whether no weight has been trained, but for the first step that was measured, and all are parameters.

    The numbers of a trained weight may look like initial ones. But a step moves every bias, and moves numbers over the
    edge of a uniform distribution. A layer is untrained if its bias is constant, or if parameters fill PyTorch's
    default bounds and none of them exceeds those. If its bias is too short to tell, another layer has to.
    """
    beyond = FIRST_STEP if measurement.step == 0 else 0.0
    layers = (layer for layer in model.modules() if isinstance(layer, (*WEIGHTED, nn.RNNBase)))
    found = [_is_initial(layer, beyond) for layer in layers]
    return not measurement.step and True in found and False not in found


def _is_initial(layer: nn.Module, beyond: float) -> bool | None:
    """Whether a layer's numbers, which may be so far beyond their bound, are initial; None if they do not tell."""
    own = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, nn.RNNBase):
        bound = layer.hidden_size**-0.5
    elif "weight" in own:
        bound = own["weight"][0].numel() ** -0.5
    else:
        return False  # it is computed from others
    bias = own.get("bias")
    if bias is not None and bool((bias == bias[0]).all()) and (len(bias) > 1 or not bias.any()):
        return True
    many, deviation = [p for p in own.values() if p.numel() >= FEWEST], bound / 3**0.5  # of a uniform distribution
    full = [p for p in many if abs(float(p.float().std()) / deviation - 1) < TOLERANCE]
    judged = [p for p in full if p.dim() > 1] or full
    short = bias is not None and len(bias) < FEWEST and _within(bias, bound)
    return all(_within(p, bound * (1 + beyond)) for p in judged) if full else None if short else False


def _within(values: Tensor, bound: float) -> bool:
    return float(values.abs().max()) <= bound * (1 + torch.finfo(values.dtype).eps)
