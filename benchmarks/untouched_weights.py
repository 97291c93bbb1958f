"""Untouched weights: PyTorch's default initialisation, and `calibrate` only.

Digits, width 64, Adam, batch 100, 10 epochs, 5 seeds. Random weights that are not orthogonal lose the signal's
directions with depth (their products tend to rank 1), which no slope brings back. Three ways are tried: equal rates
lr / L in all layers; the rule's rates, which go to the layers that still see several directions; and these with a
faster last layer, which makes up for its small default weights.
"""

import statistics
from typing import Any

import torch
from torch import nn

import sigmoidcore as sc
from _report import Report, arguments
from sigmoidcore.calibration.learning_rates import FIRST, HIDDEN
from training import digits, train


def equal_rates(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters()), "lr": lr / (len(list(model.children())) // 2)}]


def faster_last_layer(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The rule, but default weights are large already: no larger factor for the first layer, and 0.1 for the last."""
    groups = sc.depth_scaled_lr(model, lr)
    first, last = (set(layer.parameters()) for layer in (model[0], model[-1]))
    for group in groups:
        if first.intersection(group["params"]):
            group["lr"] *= HIDDEN / FIRST
        if last.intersection(group["params"]):
            group["lr"] = 0.1
    return groups


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    report = Report(
        "untouched_weights",
        options,
        key=("depth", "saturation", "lr", "rates"),
        seeds=[0, 1] if options.quick else [0, 1, 2, 3, 4],
        settings={"width": 64, "batch": 100, "epochs": 10},
    )
    ways = {"equal": equal_rates, "rule": sc.depth_scaled_lr, "faster last layer": faster_last_layer}
    split = digits()
    x, y = split.train_x[:512], split.train_y[:512]
    for depth in (30,) if options.quick else (30, 100):
        for saturation, lr in ((0.5, 0.03), (0.5, 0.045), (1.0, 0.03), (2.0, 0.03)):
            for name, rates in ways.items():
                if not report.wants(depth=depth, saturation=saturation, lr=lr, rates=name):
                    continue
                found = []
                for seed in report.seeds:
                    torch.manual_seed(seed)
                    model = sc.MLP(64, 64, depth, 10)
                    sc.calibrate(model, x, targets=y, loss_fn=nn.functional.cross_entropy, saturation=saturation)
                    found.append(round(train(model, split, seed=seed, lr=lr, rates=rates).accuracies[-1], 2))
                report.add(
                    depth=depth,
                    saturation=saturation,
                    lr=lr,
                    rates=name,
                    accuracy=statistics.median(found),
                    accuracies=found,
                )
    report.finish()


if __name__ == "__main__":
    main()
