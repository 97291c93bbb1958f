"""The layer rule: slopes of layers change where the gradient leaves the band around its median size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from sigmoidcore.core import SigmoidCore
from sigmoidcore.observation.gradients import CorePass, gradient_moments
from sigmoidcore.observation.graph import Graph
from unstuck.language.warning import warn
from unstuck.observation.process_group import Ranks

STEEPER = 0.5
"""A slope is raised only if the mean relative slope of its layer is at least this: others would saturate more."""
FULL = math.log(20)
"""A difference (of logarithms, beyond the band) from which on a slope makes up for all of it at once."""
LEAST = 0.1  # the share of a small difference that a slope makes up for in one sample
MOST = math.log(2)  # a slope changes at most by this factor (in logarithms) a sample
ENOUGH = 8.0  # samples that must make the gradient: the profile of a few samples is not that of the network
TRIES = 10  # changes of a slope after which the gradient must be nearer to level than before them


@dataclass
class Trial:
    """Changes of the slope of a core since its gradient left the band."""

    start: float  # difference before the first change
    moved: float = 0.0  # sum of the changes, in logarithms
    count: int = 0


class LayerRule:
    """Changes the slopes of cores whose gradient differs from that of the cores that they feed; see `Equalizer`."""

    def __init__(self, cores: Mapping[str, SigmoidCore], tolerance: float) -> None:
        self._names, self._cores = list(cores), list(cores.values())
        self._band = math.log(tolerance)
        self._trials: dict[int, Trial] = {}
        self._resting: list[int] = []

    def level(self, errors: Tensor, relative: Sequence[Tensor], graph: Graph, enough: Tensor) -> list[float]:
        """Change slopes; returns the size of each change, in logarithms.

        `errors` are the logarithms of the gradient profile over its median, [cores]; `relative` has the mean relative
        slopes of the neurons of each core; `enough` says whether enough samples make the gradient of each core.
        """
        difference = self.excess(errors) - self.excess(_wanted(errors, graph))
        change = (difference * (difference / FULL).square().clamp(LEAST, 1)).clamp(-MOST, MOST)
        moved = []
        self._trials = {i: trial for i, trial in self._trials.items() if change[i] != 0}
        for i in change.nonzero().flatten().tolist():
            open_enough = bool(relative[i].mean() >= STEEPER)
            allowed = open_enough if change[i] < 0 else not (open_enough and i in graph.normalised)
            if allowed and enough[i] and i not in self._resting and not self._give_up(i, abs(float(difference[i]))):
                self._move(i, -float(change[i]))
                moved.append(abs(float(change[i])))
        return moved

    def _move(self, i: int, by: float) -> None:
        self._trials[i].moved += by
        self._trials[i].count += 1
        self._cores[i].set_slope(self._cores[i].alpha * math.exp(by))

    def _give_up(self, i: int, difference: float) -> bool:
        """Restore the slope of a core, for good, if its changes do not bring its gradient nearer to level."""
        trial = self._trials.setdefault(i, Trial(difference))
        if trial.count < TRIES or difference < max(trial.start, self._band):
            return False
        self._move(i, -trial.moved)
        if not self._resting:
            warn(
                f"the Equalizer gives core '{self._names[i]}' its old slope back and does not change it any more: "
                f"{TRIES} changes did not bring its gradient nearer to the size in other layers. It will treat other "
                "cores alike, without a warning. A signal that multiplies the output of the core is a usual reason"
            )
        self._resting.append(i)
        return True

    def enough(self, errors: Tensor, passes: Mapping[str, list[CorePass]], sizes: Tensor, ranks: Ranks) -> Tensor:
        """Whether enough samples, of all ranks, make the gradient of each core: bool, [cores]; True inside the band."""
        if not bool(self.excess(errors).any()):
            return torch.ones(len(errors), dtype=torch.bool)
        device = self._cores[0].shift.device
        squares, fourth = ranks.total(gradient_moments(passes.values(), sizes, device), device)
        enough: Tensor = squares.square() >= ENOUGH * fourth
        return enough

    def excess(self, errors: Tensor) -> Tensor:
        """What exceeds the band, [cores]; 0 inside."""
        return errors.sign() * (errors.abs() - self._band).clamp_min(0)

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists."""
        return {"trials": {str(i): list(astuple(t)) for i, t in self._trials.items()}, "resting": list(self._resting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._trials = {int(i): Trial(*trial) for i, trial in state["trials"].items()}
        self._resting = list(state["resting"])


def _wanted(errors: Tensor, graph: Graph) -> Tensor:
    """The error that each core should have: that of the cores behind it, or its own if there are none.

    Of several, the root mean square: gradients of branches add up in their squares. A core with none behind it changes
    the gradient of all before it as much as its own, and levels nothing.
    """
    wanted = errors.clone()
    for i, behind in enumerate(graph.behind):
        if behind:
            wanted[i] = (torch.logsumexp(2 * errors[behind], 0) - math.log(len(behind))) / 2
    return wanted
