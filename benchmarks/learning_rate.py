"""The learning-rate rule: test accuracy at 0.1, 1/3, 1 and 10/3 times its rate, at many sizes.

First table: digits, width 64, depth 100, 5 seeds: Sigmoid Core with and without the Equalizer, and plain sigmoids
(default weights, same rates). Second table: widths 32, 64 and 256, depths 3, 30 and 300 on digits, and 784 inputs
(Fashion-MNIST, the first 4,000 training and 2,000 test images); 2 seeds (1 at depth 300). 10 epochs, batch 100.
"""

import statistics
from dataclasses import replace

import torch

import sigmoidcore as sc
from _fashion_mnist import fashion_mnist
from _report import Report, arguments
from peers import Problem, find
from training import DivergedError, Split, digits, train

CORE = find("sigmoid-core")
METHODS = {
    "core": CORE,
    "no equalizer": replace(CORE, recipe={**CORE.recipe, "equalize": False}),
    "plain": replace(find("sigmoid"), recipe={"rates": sc.depth_scaled_lr}),
}
FACTORS = {"0.1": 0.1, "0.33": 1 / 3, "1": 1.0, "3.3": 10 / 3}


def accuracies(split: Split, method: str, width: int, depth: int, factor: float, seeds: list[int]) -> list[float]:
    problem = Problem(*split.probes(), 10, width, depth)
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = METHODS[method].network(problem)
        try:
            result = train(model, split, lr=0.03 * factor, seed=seed, **METHODS[method].training())
            found.append(round(result.accuracies[-1], 2))
        except DivergedError:
            found.append(0.0)
    return found


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    report = Report(
        "learning_rate",
        options,
        key=("data", "method", "width", "depth"),
        seeds=[0, 1] if options.quick else [0, 1, 2, 3, 4],
        settings={"lr": 0.03, "factors": list(FACTORS), "batch": 100, "epochs": 10},
    )
    cases = [("digits", method, 64, 100, 5) for method in METHODS]
    if not options.quick:
        for depth, seeds in ((3, 2), (30, 2), (300, 1)):
            cases += [("digits", "core", width, depth, seeds) for width in (32, 64, 256)]
            cases.append(("fashion-mnist", "core", 64, depth, seeds))
    splits: dict[str, Split] = {}
    for data, method, width, depth, seeds in cases:
        if not report.wants(data=data, method=method, width=width, depth=depth):
            continue
        if data not in splits:
            splits[data] = digits() if data == "digits" else fashion_mnist(4_000, 2_000)
        all_of = {
            name: accuracies(splits[data], method, width, depth, factor, report.seeds[:seeds])
            for name, factor in FACTORS.items()
        }
        medians = {name: statistics.median(values) for name, values in all_of.items()}
        report.add(
            data=data,
            method=method,
            width=width,
            depth=depth,
            **medians,
            below_best=round(max(medians.values()) - medians["1"], 2),
            accuracies=list(all_of.values()),
        )
    report.finish()


if __name__ == "__main__":
    main()
