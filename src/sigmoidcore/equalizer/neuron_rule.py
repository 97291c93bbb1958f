"""The neuron rule: a saturated neuron is opened by its shift and, where that is not enough, by its slope."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.gradients import CorePass
from sigmoidcore.observation.process_group import Ranks

OPEN = 0.8
"""Mean relative slope that a neuron saturated by scale gets back: that of a layer at saturation level 1."""
MOST_SHUT = 0.5
"""After the first sample, saturated neurons are opened only in layers where this share of them is saturated."""


def open_saturated(
    cores: Mapping[str, SigmoidCore],
    passes: Mapping[str, Sequence[CorePass]],
    relative: Mapping[str, Tensor],
    floor: float,
    share: float,
    ranks: Ranks,
) -> int:
    """Open and count the neurons whose mean relative slope is below the floor, if they are this share of their core."""
    opened = 0
    for name, mean in relative.items():
        shut = (mean < floor).to(cores[name].shift.device)
        if bool(shut.any()) and float(shut.double().mean()) >= share:
            x = torch.cat([p.x[:, shut] for p in passes[name]])
            opened += open_neurons(cores[name], x, shut, floor, ranks)
    return opened


@torch.no_grad()
def open_neurons(core: SigmoidCore, x: Tensor, shut: Tensor, floor: float, ranks: Ranks) -> int:
    """Move the shifts of the neurons that are shut to the batch mean, and lower their slopes if that is not enough.

    `x` has the preactivations of the neurons that are shut, [rows, shut ones], in the dtype of the slope; `shut` is
    [neurons], or [1] if the layer has one slope. Returns the number of neurons opened; 0, without a change, if their
    preactivations are not finite.
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
