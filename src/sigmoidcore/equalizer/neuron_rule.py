"""The neuron rule: a saturated neuron is opened by its shift and, where that is not enough, by its slope."""

import torch
from torch import Tensor

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.process_group import Ranks

OPEN = 0.8
"""Mean relative slope that a neuron saturated by scale gets back: that of a layer at saturation level 1."""


@torch.no_grad()
def open_neurons(core: SigmoidCore, x: Tensor, shut: Tensor, floor: float, ranks: Ranks) -> int:
    """Move the shifts of the neurons that are shut to the batch mean, and lower their slopes if that is not enough.

    Args:
        core: the core; its other neurons stay as they are.
        x: preactivations of the neurons that are shut, shape [rows, shut ones], in the dtype of the slope.
        shut: which ones are saturated, shape [neurons] ([1] if the layer has one slope), bool, on the core's device.
        floor: mean relative slope below which a neuron is saturated.
        ranks: the processes whose rows these are.

    Returns:
        The number of neurons opened: 0 if what they read is not finite, and then nothing is changed.
    """
    alpha, shift = core.alpha.reshape(-1).clone(), core.shift.reshape(-1).clone()
    shift[shut] = ranks.means([x.mean(0)], [len(x)])[0]
    x = x - shift[shut]
    wide = shut.clone()
    wide[shut] = ranks.means([mean_relative_slope(alpha[shut] * x)], [len(x)])[0] < floor
    alpha[wide] = ranks.slope_for_floor(x[:, wide[shut]], alpha[wide], max(OPEN, floor))
    if not bool(torch.isfinite(shift).all() and torch.isfinite(alpha).all()):
        return 0
    core.set_shift(shift.reshape(core.shift.shape))
    core.set_slope(alpha.reshape(core.shift.shape))
    return int(shut.sum())


def in_rows(core: SigmoidCore, values: Tensor) -> Tensor:
    """What a core reads or makes, as [rows, neurons], or [rows, 1] if the layer has one slope."""
    if core.num_features is None:
        return values.reshape(-1, 1)
    if values.dim() == 2 and core.dim % 2 == 1:
        return values
    return values.movedim(core.dim, -1).flatten(0, -2)
