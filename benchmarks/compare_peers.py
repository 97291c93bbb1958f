"""Sigmoid Core beside the methods that one would use instead, each in the best of its settings on the test samples.

Digits with 10, 100 and 1,000 layers, and Fashion-MNIST (the first 4,000 training and 2,000 test images) with 100, and
with 5, 50 and 500 beside plain and scaled sigmoids; width 64, 10 epochs, batches of 100, Adam. Every other method is
trained at five rates and with every value of its knob; Sigmoid Core has one setting. At 1,000 layers the rates are a
tenth of the usual ones, of which the lowest is the best there; the search has one seed, and the best setting is
repeated with five. The best setting, a knob and a rate, has the highest mean over the seeds **on the test samples**:
this favours methods with many settings. Seconds are those to build and to train a network, without evaluations. The
rows are in `results/peers.json`.

For the basin, the largest over the smallest rate within 2 points of a method's best, some methods are trained at nine
rates: half decades over four decades; "sigmoid-core, all rates" is Sigmoid Core at these multiples of the rule's rate.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from _fashion_mnist import fashion_mnist
from _report import Report, arguments
from peers import Method, Problem, find
from training import DivergedError, Split, digits, train

WITHOUT_SKIPS = (
    "sigmoid-core", "sigmoid", "sigmoid-scaled", "tanh-orthogonal", "relu-he", "selu", "lsuv", "dks", "tat",
)  # fmt: skip
WITH_SKIPS = ("batchnorm", "layernorm", "resnet", "resnet-zero", "densenet", "fixup", "rezero", "highway")
"""Methods with skip connections, gates or normalisation."""
SIGMOIDS = ("sigmoid-core", "sigmoid", "sigmoid-scaled")
ALL_RATES = "sigmoid-core, all rates"
HALF_DECADES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)
RULE, WIDTH = 0.03, 64
DEEP, DEEP_RATES = 1000, (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""From this depth on, the others are trained at these rates, one seed each, and the best setting with all seeds."""
CASES = (
    ("digits", 10, (*WITHOUT_SKIPS, *WITH_SKIPS), 3),
    ("digits", 100, (*WITHOUT_SKIPS, *WITH_SKIPS, ALL_RATES), 3),
    ("fashion-mnist", 100, ("sigmoid-core", "tanh-orthogonal", "relu-he", "dks", "batchnorm", "resnet-zero"), 1),
    *(("fashion-mnist", depth, SIGMOIDS, seeds) for depth, seeds in ((5, 3), (50, 3), (500, 1))),
    ("digits", DEEP, ("sigmoid-core", "tanh-orthogonal", "dks", "resnet-zero", "rezero"), 5),
)
"""Data, hidden layers, methods, seeds."""
BASIN = 2.0
"""Points below the best accuracy that still belong to the basin of rates."""
BASINS = {("digits", 100): ("tanh-orthogonal", "dks", "tat", "batchnorm", "resnet-zero")}
"""Methods that are trained at all half decades."""


def method_of(name: str) -> Method:
    """The method of a row."""
    if name != ALL_RATES:
        return find(name)
    factors = [rate / 1e-3 for rate in HALF_DECADES]
    return replace(find("sigmoid-core"), name=name, rates=tuple(RULE * factor for factor in factors))


@dataclass(frozen=True)
class Trial:
    """One training; its accuracy is None if the loss was not finite."""

    knob: float | None
    rate: float
    accuracy: float | None
    seconds: float
    parameters: int


def trained(method: Method, data: Split, depth: int, knob: float | None, rate: float, seed: int) -> Trial:
    """Build a network, train it, and evaluate it on the test samples."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    model = method.network(Problem(*data.probes(), data.classes, WIDTH, depth), knob)
    built = time.perf_counter() - started
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        result = train(model, data, lr=rate, seed=seed, **method.training())
    except DivergedError as error:
        return Trial(knob, rate, None, round(built + error.result.seconds, 3), parameters)
    return Trial(knob, rate, result.accuracies[-1], round(built + result.seconds, 3), parameters)


def mean(trials: Sequence[Trial]) -> float | None:
    """Mean accuracy; None if a training failed."""
    accuracies = [trial.accuracy for trial in trials if trial.accuracy is not None]
    return statistics.mean(accuracies) if len(accuracies) == len(trials) else None


@dataclass(frozen=True)
class Standing:
    """A method at a depth: the trials of each setting, one for each seed."""

    settings: Sequence[Sequence[Trial]]

    @cached_property
    def best(self) -> Sequence[Trial]:
        """Trials of the best setting."""
        return max(self.settings, key=lambda trials: -1.0 if (found := mean(trials)) is None else found)

    @cached_property
    def by_rate(self) -> dict[float, float]:
        """Mean accuracy of each rate with the best knob, in order, without those at which a training failed."""
        means = {trials[0].rate: mean(trials) for trials in self.settings if trials[0].knob == self.best[0].knob}
        return {rate: found for rate, found in sorted(means.items()) if found is not None}

    @property
    def basin(self) -> float | None:
        """Largest over smallest rate whose accuracy is within 2 points of the best; None if only one was tried."""
        good = [rate for rate, found in self.by_rate.items() if found >= max(self.by_rate.values()) - BASIN]
        return max(good) / min(good) if good and len(self.settings) > 1 else None


def standing(data: Split, depth: int, method: Method, seeds: int, rates: tuple[float, ...]) -> Standing:
    """The method with all of its settings."""
    return Standing(
        [
            [trained(method, data, depth, knob, rate, seed) for seed in range(seeds)]
            for knob, rate in method.settings(rates)
        ]
    )


def repeated(data: Split, depth: int, method: Method, seeds: int, search: Standing) -> Sequence[Trial]:
    """The best setting of a search with one seed, with all seeds."""
    found = search.best[0]
    knobs = () if found.knob is None else (found.knob,)
    return standing(data, depth, replace(method, rates=(found.rate,), knobs=knobs), seeds, ()).best


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    settings = {"width": WIDTH, "batch": 100, "epochs": 10, "half_decades": HALF_DECADES}
    report = Report("peers", options, key=("data", "depth", "method"), seeds=[0, 1, 2], settings=settings)
    splits: dict[str, Split] = {}
    for data, depth, names, seeds in CASES[:1] if options.quick else CASES:
        for name in names[:3] if options.quick else names:
            if not report.wants(data=data, depth=depth, method=name):
                continue
            if data not in splits:
                splits[data] = digits() if data == "digits" else fashion_mnist(4_000, 2_000)
            method, split, deep = method_of(name), splits[data], depth >= DEEP
            rates = HALF_DECADES if name in BASINS.get((data, depth), ()) else DEEP_RATES if deep else ()
            found = standing(split, depth, method, 1 if deep else seeds, () if name == ALL_RATES else rates)
            best = repeated(split, depth, method, seeds, found) if deep else found.best
            trials = [trial for group in found.settings for trial in group]
            report.add(
                data=data,
                depth=depth,
                method=name,
                skips=name in WITH_SKIPS,
                accuracy=mean(best),
                accuracies=[trial.accuracy for trial in best],
                rate=best[0].rate,
                knob=best[0].knob,
                settings=len(found.settings),
                seconds=round(statistics.median(trial.seconds for trial in best), 2),
                seconds_in_all=round(sum(trial.seconds for trial in trials), 1),
                parameters=best[0].parameters,
                basin=found.basin if name == ALL_RATES or rates == HALF_DECADES else None,
                by_rate={f"{rate:g}": round(accuracy, 2) for rate, accuracy in found.by_rate.items()},
            )
    report.finish()


if __name__ == "__main__":
    main()
