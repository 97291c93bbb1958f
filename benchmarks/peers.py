"""Sigmoid Core beside the methods that one would use instead, each in the best of its settings on the test samples.

Digits with 10, 100 and 1,000 layers, and Fashion-MNIST (the first 4,000 training and 2,000 test images) with 100, and
with 5, 50 and 500 beside plain and scaled sigmoids; width 64, 10 epochs, batches of 100, Adam. Every other method is
trained at five rates and with every value of its knob; Sigmoid Core has one setting. At 1,000 layers the rates are a
tenth of the usual ones, of which the lowest is the best there; the search has one seed, and the best setting is
repeated with five.

For the basin, the largest over the smallest rate within 2 points of a method's best, some methods are trained at nine
rates: half decades over four decades; "sigmoid-core, all rates" is Sigmoid Core at these multiples of the rule's rate.
"""

import statistics
from dataclasses import replace

import torch

from _fashion_mnist import fashion_mnist
from _report import Report, arguments
from sigmoidcore.peers import Method, find
from sigmoidcore.peers.comparison import Budget, Comparison
from sigmoidcore.peers.standings import Standing, Trial, mean
from sigmoidcore.training import Split, digits

WITHOUT_SKIPS = (
    "sigmoid-core", "sigmoid", "sigmoid-scaled", "tanh-orthogonal", "relu-he", "selu", "lsuv", "dks", "tat",
)  # fmt: skip
WITH_SKIPS = ("batchnorm", "layernorm", "resnet", "resnet-zero", "densenet", "fixup", "rezero", "highway")
"""Methods with skip connections, gates or normalisation."""
SIGMOIDS = ("sigmoid-core", "sigmoid", "sigmoid-scaled")
ALL_RATES = "sigmoid-core, all rates"
HALF_DECADES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)
RULE = 0.03
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
BASINS = {("digits", 100): ("tanh-orthogonal", "dks", "tat", "batchnorm", "resnet-zero")}
"""Methods that are trained at all half decades."""


def method_of(name: str) -> Method:
    """The method of a row."""
    if name != ALL_RATES:
        return find(name)
    factors = [rate / 1e-3 for rate in HALF_DECADES]
    return replace(find("sigmoid-core"), name=name, rates=tuple(RULE * factor for factor in factors))


def standing(data: Split, depth: int, method: Method, seeds: int, rates: tuple[float, ...]) -> Standing:
    """The method with all of its settings."""
    comparison = Comparison([method], data, Budget(), depths=[depth], seeds=range(seeds), rates=rates)
    for _ in comparison.run():
        pass
    return comparison.standings[0]


def repeated(data: Split, depth: int, method: Method, seeds: int, search: Standing) -> list[Trial]:
    """The best setting of a search with one seed, with all seeds."""
    setting = search.best[0].setting
    knobs = () if setting.knob is None else (setting.knob,)
    return standing(data, depth, replace(method, rates=(setting.rate,), knobs=knobs), seeds, ()).best


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    settings = {"width": 64, "batch": 100, "epochs": 10, "half_decades": HALF_DECADES}
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
            trials = [trial for group in found.settings.values() for trial in group]
            report.add(
                data=data,
                depth=depth,
                method=name,
                skips=name in WITH_SKIPS,
                accuracy=mean(best),
                accuracies=[trial.metric for trial in best],
                rate=best[0].setting.rate,
                knob=best[0].setting.knob,
                settings=len(found.settings),
                seconds=round(statistics.median(trial.seconds for trial in best), 2),
                seconds_in_all=round(sum(trial.seconds for trial in trials), 1),
                parameters=best[0].parameters,
                basin=found.basin if name == ALL_RATES or rates == HALF_DECADES else None,
                by_rate={f"{rate:g}": round(metric, 2) for rate, metric in found.by_rate.items()},
            )
    report.finish()


if __name__ == "__main__":
    main()
