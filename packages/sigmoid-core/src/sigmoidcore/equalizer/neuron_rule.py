"""The neuron rule: a saturated neuron is opened by its shift and, where that is not enough, by its slope."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import mean_relative_slope, slope_for_floor
from sigmoidcore.observation.gradients import CorePass
from unstuck.observation.process_group import Ranks

OPEN = 0.8
"""Mean relative slope that a neuron saturated by scale gets back: that of a layer at saturation level 1."""
BACK = 0.5
"""A change of the shifts of a core takes the last one back if their sum is smaller than this share of the last."""
MOST_SHUT = 0.5
"""After the first sample, saturated neurons are opened only in layers where this share of them is saturated."""


class NeuronRule:
    """Opens saturated neurons; see `Equalizer`.

    Data may alternate, such as real and generated images. So after the first sample a neuron is opened only if it is
    saturated in two samples in a row. A core whose shifts go back gets those half of the way, with slopes that are open
    for both kinds of data, and rests for good.
    """

    def __init__(self, cores: Mapping[str, SigmoidCore], floor: float) -> None:
        self._cores = cores
        self._floor = floor
        self._shut: dict[str, list[int]] = {}  # saturated neurons of the last sample, where they are half of the core
        self._moved: dict[str, list[float]] = {}  # changes of the shifts of a core when it was last opened
        self._resting: list[str] = []
        self.waits = False  # whether neurons are opened if they are saturated in the next sample, too

    def open(
        self, passes: Mapping[str, Sequence[CorePass]], relative: Mapping[str, Tensor], ranks: Ranks, *, first: bool
    ) -> int:
        """Open saturated neurons; returns their number. `relative`: mean relative slopes of each core of the trunk."""
        before, self._shut, self.waits, opened = self._shut, {}, False, 0
        for name, mean in relative.items():
            shut = mean < self._floor
            if not first:
                most = name not in self._resting and bool(shut.double().mean() >= MOST_SHUT)
                if most:
                    self._shut[name] = shut.nonzero().flatten().tolist()
                    self.waits |= name not in before
                again = torch.zeros_like(shut)
                again[before.get(name, [])] = most
                shut &= again
                shut &= shut.double().mean() >= MOST_SHUT
            if bool(shut.any()):
                opened += self._open(name, passes[name], shut.to(self._cores[name].shift.device), ranks)
        return opened

    @torch.no_grad()
    def _open(self, name: str, passes: Sequence[CorePass], shut: Tensor, ranks: Ranks) -> int:
        core, x = self._cores[name], torch.cat([p.x[:, shut] for p in passes])
        before = core.shift.reshape(-1).clone()
        opened = open_neurons(core, x, shut, self._floor, ranks)
        self._shut.pop(name, None)
        if opened:
            moved = core.shift.reshape(-1) - before
            last = moved.new_tensor(self._moved.get(name, [0.0] * len(moved)))
            if bool((moved + last).norm() < BACK * last.norm()):
                self._resting.append(name)
                shift, alpha = before + moved / 2, core.alpha.reshape(-1).clone()
                alpha[shut] = _slope_for_floor(ranks, x - shift[shut], alpha[shut], max(OPEN, self._floor))
                core.set_shift(shift.reshape(core.shift.shape))
                core.set_slope(alpha.reshape(core.shift.shape))
            self._moved[name] = moved.tolist()
        return opened

    def state_dict(self) -> dict[str, Any]:
        """Lists of numbers by the name of a core, and names of cores."""
        return {"shut": dict(self._shut), "moved": dict(self._moved), "closed": list(self._resting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._shut, self._moved, self._resting = dict(state["shut"]), dict(state["moved"]), list(state["closed"])


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
    alpha[wide] = _slope_for_floor(ranks, x[:, wide[shut]], alpha[wide], max(OPEN, floor))
    if not bool(torch.isfinite(shift).all() and torch.isfinite(alpha).all()):
        return 0
    core.set_shift(shift.reshape(core.shift.shape))
    core.set_slope(alpha.reshape(core.shift.shape))
    return int(shut.sum())


def _slope_for_floor(ranks: Ranks, x: Tensor, alpha: Tensor, floor: float) -> Tensor:
    """`gain.slope_for_floor` over the rows of all ranks; `x` has this rank's rows, `alpha` is the same on all."""
    if ranks.count == 1:
        return slope_for_floor(x, alpha, floor)
    return slope_for_floor(
        x,
        alpha,
        floor,
        mean=lambda mean: ranks.means([mean], [len(x)])[0],
        largest=lambda largest: ranks.total(largest, x.device, "MAX").to(x.dtype),
    )
