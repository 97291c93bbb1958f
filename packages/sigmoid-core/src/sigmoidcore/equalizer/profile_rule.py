"""The exception to the level rule: where the gradient is not level and every level is right, slopes follow the profile.

It is the article's "same size in every layer". Needed where slopes are wrong from the start: benchmarks/equalizer.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sigmoidcore.core import SigmoidCore
from sigmoidcore.observation.graph import Trunk

STEEPER = 0.5  # a slope is raised only if the mean relative slope of its layer is at least this
FULL, LEAST = math.log(20), 0.1  # a difference beyond the band that is made up for at once; the share of a small one
LARGEST_CHANGE = math.log(2)  # a slope changes at most by this factor (in logarithms) a sample
TRIES = 10  # changes of a slope after which the gradient must be nearer to level than before them


class ProfileRule:
    """Changes the slopes of cores of the trunk whose gradient is not that of the next core; see `Equalizer`."""

    def __init__(self, cores: Sequence[SigmoidCore], tolerance: float) -> None:
        self._cores, self._band = list(cores), math.log(tolerance)
        self._trials: dict[int, list[float]] = {}  # by core: difference before its changes, their sum, their number
        self._right = False  # the profile has been inside of the band: so the slopes were right

    def applies(self, logs: Tensor) -> bool:
        """Whether a profile leaves the band, and none was inside before: what comes later, weights have learned."""
        self._right |= not self.excess(logs).any()
        return not self._right

    def excess(self, logs: Tensor) -> Tensor:
        """What exceeds the band around the median of the logarithms of a profile; 0 inside."""
        errors = logs - logs.median()
        return errors.sign() * (errors.abs() - self._band).clamp_min(0)

    def follow(self, logs: Tensor, relative: Sequence[Tensor], trunk: Trunk, enough: Tensor) -> list[float]:
        """Change slopes; returns the size of each change. `relative`: mean relative slopes of the neurons of each core.

        The last core keeps its slope, and those whose gradient too few samples make. A slope whose changes do not help
        goes back and rests (an infinite number of changes).
        """
        difference = torch.zeros_like(logs)
        if len(trunk.cores) > 1:
            excess = self.excess(logs[trunk.cores])
            difference[trunk.cores[:-1]] = excess[:-1] - excess[1:]
        change = (difference * (difference / FULL).square().clamp(LEAST, 1)).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
        self._trials = {i: t for i, t in self._trials.items() if change[i] != 0 or t[2] == math.inf}
        moved = []
        for i in (change * enough).nonzero().flatten().tolist():
            by, far, is_open = -float(change[i]), abs(float(difference[i])), bool(relative[i].mean() >= STEEPER)
            trial = self._trials.setdefault(i, [far, 0.0, 0.0])
            if TRIES <= trial[2] < math.inf and far >= max(trial[0], self._band):
                by, trial[2] = -trial[1], math.inf
            elif trial[2] == math.inf or i in trunk.normalised or (by > 0 and not is_open):
                continue
            trial[1:] = trial[1] + by, trial[2] + 1
            self._cores[i].set_slope(self._cores[i].alpha * math.exp(by))
            moved.append(abs(by))
        return moved

    def state_dict(self) -> dict[str, Any]:
        """Numbers by the index of a core, and whether slopes are right."""
        return {"trials": {str(i): list(trial) for i, trial in self._trials.items()}, "right": self._right}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._trials = {int(i): list(trial) for i, trial in state["trials"].items()}
        self._right = bool(state["right"])
