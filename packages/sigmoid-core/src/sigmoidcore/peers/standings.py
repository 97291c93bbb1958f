"""The results of trainings, and where each method stands with the best of its settings."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

BASIN = 2.0
"""Points below the best metric that still belong to the basin of rates."""


class Setting(NamedTuple):
    """What decides a training, beside the budget."""

    method: str
    depth: int
    knob: float | None
    rate: float
    seed: int


@dataclass(frozen=True)
class Trial:
    """The result of one training."""

    setting: Setting
    metric: float | None  # of the test samples, at the end; None if the loss was not finite
    seconds: float  # to build and train the network, without evaluations
    parameters: int  # of the network
    curve: tuple[tuple[float, float], ...]  # seconds and metric after each epoch


@dataclass(frozen=True)
class Standing:
    """A method at a depth, with the best of its settings.

    The best setting, a knob and a rate, has the highest mean over the seeds **on the test samples**. This favours
    methods with many settings: a method with a single one has no choice.
    """

    method: str
    depth: int
    settings: dict[tuple[float | None, float], list[Trial]]  # by knob and rate; a trial for each seed

    @cached_property
    def best(self) -> list[Trial]:
        """Trials of the best setting; while seeds are missing, among the settings that have most."""
        most = max(map(len, self.settings.values()))
        complete = (trials for trials in self.settings.values() if len(trials) == most)
        return max(complete, key=lambda trials: -math.inf if (found := mean(trials)) is None else found)

    @cached_property
    def by_rate(self) -> dict[float, float]:
        """Mean metric of each rate with the best knob, in order, without those at which a training failed."""
        means = {rate: mean(t) for (knob, rate), t in self.settings.items() if knob == self.best[0].setting.knob}
        return {rate: found for rate, found in sorted(means.items()) if found is not None}

    @property
    def basin(self) -> float | None:
        """Largest over smallest rate whose metric is within 2 points of the best; None if only one was tried."""
        good = [rate for rate, metric in self.by_rate.items() if metric >= max(self.by_rate.values()) - BASIN]
        return max(good) / min(good) if good and len(self.settings) > 1 else None

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Seconds and metric after each epoch in the best setting, means over the seeds."""
        epochs = zip(*(trial.curve for trial in self.best), strict=False)
        return [tuple(map(statistics.mean, zip(*points, strict=True))) for points in epochs]


def mean(trials: Sequence[Trial]) -> float | None:
    """Mean metric; None if a training failed."""
    metrics = [trial.metric for trial in trials if trial.metric is not None]
    return statistics.mean(metrics) if len(metrics) == len(trials) else None


def standings(trials: Iterable[Trial]) -> list[Standing]:
    """The standing of every method at every depth, in the order of their first trials."""
    found: dict[tuple[str, int], Standing] = {}
    for trial in trials:
        method, depth, knob, rate, _ = trial.setting
        standing = found.setdefault((method, depth), Standing(method, depth, {}))
        standing.settings.setdefault((knob, rate), []).append(trial)
    return list(found.values())
