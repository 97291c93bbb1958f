"""SGD: test accuracy at 0.1, 1/3, 1 and 10/3 times the rate of `depth_scaled_lr`, at many depths; and one rate for all.

Digits, width 64 unless the row says otherwise, prepared networks, 20 epochs, batch 100, the rates fall to 0 in the
second half; without and with momentum 0.9. "one rate" gives all parameters the same rate, of which 0.0003 to 0.03 are
tried. 2 seeds, 1 at depth 300. 0.0 is a training that diverged.
"""

import math
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

import sigmoidcore as sc
from _report import Report, arguments
from training import Split, accuracy, digits

LR, BATCH, INPUTS, CLASSES = 0.03, 100, 64, 10
FACTORS = {"0.1": 0.1, "0.33": 1 / 3, "1": 1.0, "3.3": 10 / 3}
RATES = {"0.0003": 0.0003, "0.001": 0.001, "0.003": 0.003, "0.01": 0.01, "0.03": 0.03}


class Case(NamedTuple):
    rule: str
    momentum: float
    width: int
    depth: int


def trained(split: Split, case: Case, rate: float, seed: int, epochs: int) -> float:
    """Test accuracy in percent; 0 if the loss was not finite."""
    torch.manual_seed(seed)
    model = sc.MLP(INPUTS, case.width, case.depth, CLASSES)
    loss_fn = nn.functional.cross_entropy
    sc.prepare(model, split.train_x[:256], targets=split.train_y[:256], loss_fn=loss_fn)
    rate = rate * (1 - case.momentum)
    groups: Any = model.parameters()
    if case.rule == "depth_scaled_lr":
        groups = sc.depth_scaled_lr(model, LR * rate, optimizer="sgd")
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=case.momentum, fused=True)
    steps = epochs * math.ceil(len(split.train_x) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
    for rows in batches(len(split.train_x), epochs, seed):
        optimizer.zero_grad()
        loss = loss_fn(model(split.train_x[rows]), split.train_y[rows])
        if not math.isfinite(loss.item()):
            return 0.0
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return round(accuracy(model(split.test_x), split.test_y), 2)


def batches(samples: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(samples, generator=generator).split(BATCH)


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    epochs = 2 if options.quick else 20
    report = Report(
        "sgd",
        options,
        key=("rule", "momentum", "width", "depth"),
        seeds=[0] if options.quick else [0, 1],
        settings={"lr": LR, "batch": BATCH, "epochs": epochs},
    )
    depths, widths = ((5,), ()) if options.quick else ((10, 30, 100, 300), (16, 256))
    cases = [Case("depth_scaled_lr", momentum, 64, depth) for momentum in (0.0, 0.9) for depth in depths]
    cases += [Case("depth_scaled_lr", 0.0, width, 30) for width in widths]
    cases += [Case("one rate", 0.0, 64, depth) for depth in depths]
    split = digits()
    for case in cases:
        if not report.wants(**case._asdict()):
            continue
        seeds = report.seeds[: 1 if case.depth == 300 or case.rule == "one rate" else None]
        tried = FACTORS if case.rule == "depth_scaled_lr" else RATES
        found = {name: [trained(split, case, rate, seed, epochs) for seed in seeds] for name, rate in tried.items()}
        medians = {name: statistics.median(values) for name, values in found.items()}
        report.add(**case._asdict(), **medians, accuracies=list(found.values()))
    report.finish()


if __name__ == "__main__":
    main()
