"""What the Equalizer does to a training: harm where nothing is wrong, help where something is.

**Harm.** Few samples, few features, small batches: the gradient profile of a batch is noisy there. Networks of 5 to 30
layers of 32 cores, 320 samples, 400 steps of Adam at the rule's rates, without weight decay, 12 seeds; loss on the
training samples with the Equalizer and without it, and without it in another order of the batches, which shows what
chance does. A ratio above 1 is harm; over seeds and rows they are averaged geometrically, 0.01 added to each loss.
`error` is the standard error of the mean logarithm.

**Help.** Digits, 30 layers of 64, 10 epochs: after `prepare`, two slopes are 8 times as large or a twentieth, as if by
an accident. Test accuracy with and without.

**Gated, branched and residual networks** (`_branched.py`): digits, 10 epochs, `convert(centered=True)` and `prepare`;
test accuracy with and without, and the largest loss of points over the seeds.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn

import sigmoidcore as sc
from _branched import BRANCHED
from _report import Report, arguments
from training import digits

SAMPLES, WIDTH, STEPS, EPOCHS = 320, 32, 400, 10
HARM_SEEDS = 12
OTHER_ORDER = 1000
"""Added to the seed of the order of the batches, for the training that shows what chance does."""
Task = tuple[Tensor, Tensor]


def _scaled(x: np.ndarray) -> Tensor:
    return torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)


def moons(seed: int) -> Task:
    x, y = datasets.make_moons(SAMPLES, noise=0.25, random_state=seed)
    return _scaled(x), torch.tensor(y)


def quadrants(seed: int) -> Task:
    x = np.random.default_rng(seed).normal(size=(SAMPLES, 2))
    return _scaled(x), torch.tensor((x[:, 0] * x[:, 1] > 0).astype(np.int64))


def no_sense(seed: int) -> Task:
    generator = np.random.default_rng(seed)
    return _scaled(generator.normal(size=(SAMPLES, 4))), torch.tensor(generator.integers(0, 3, SAMPLES))


def wave(seed: int) -> Task:
    x = np.random.default_rng(seed).uniform(-1, 1, (SAMPLES, 1))
    return _scaled(x), _scaled(np.sin(6 * x))


def friedman(seed: int) -> Task:
    x, y = datasets.make_friedman1(SAMPLES, noise=1.0, random_state=seed)
    return _scaled(x), _scaled(y[:, None])


TASKS: dict[str, Callable[[int], Task]] = {
    "moons": moons,
    "quadrants": quadrants,
    "no sense": no_sense,
    "wave": wave,
    "friedman 1": friedman,
}
SETTINGS = ((5, 16, 0.03), (12, 16, 0.03), (12, 100, 0.03), (12, 100, 0.1), (30, 16, 0.03), (30, 100, 0.1))
"""Layers, batch, rate."""


def train(model: nn.Module, task: Task, batch: int, lr: float, steps: int, watched: bool, seed: int) -> tuple[int, int]:
    """Train, batches in the order of `seed`; returns the Equalizer's looks, and at how many it changed slopes."""
    x, y = task
    loss_fn = nn.MSELoss() if y.is_floating_point() else nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model, lr), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
    equalizer = sc.Equalizer(model, optimizer) if watched else None
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=generator)
        optimizer.zero_grad()
        loss_fn(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    if equalizer is None:
        return 0, 0
    equalizer.remove()
    return len(equalizer.history), sum(sample.slopes > 0 for sample in equalizer.history)


def loss(
    task: Task, depth: int, batch: int, lr: float, steps: int, watched: bool, seed: int, order: int = 0
) -> tuple[float, int, int]:
    """The loss on all samples after a training, looks, and looks that changed slopes."""
    x, y = task
    torch.manual_seed(seed)
    model = sc.MLP(x.shape[1], WIDTH, depth, 1 if y.is_floating_point() else int(y.max()) + 1)
    sc.prepare(model, x[:256])
    looks, changes = train(model, task, batch, lr, steps, watched, seed + order)
    loss_fn = nn.MSELoss() if y.is_floating_point() else nn.CrossEntropyLoss()
    with torch.no_grad():
        return float(loss_fn(model(x), y)), looks, changes


def harm(
    make: Callable[[int], Task], depth: int, batch: int, lr: float, steps: int, seeds: list[int]
) -> dict[str, Any]:
    """Losses with and without the Equalizer, and their ratio."""
    watched, alone, again = (
        [loss(make(seed), depth, batch, lr, steps, equalized, seed, order) for seed in seeds]
        for equalized, order in ((True, 0), (False, 0), (False, OTHER_ORDER))
    )

    def logs(one: list[tuple[float, int, int]]) -> list[float]:
        return [math.log((a + 0.01) / (b + 0.01)) for (a, *_), (b, *_) in zip(one, alone, strict=True)]

    return {
        "watched": round(statistics.median(value for value, *_ in watched), 4),
        "alone": round(statistics.median(value for value, *_ in alone), 4),
        "ratio": round(math.exp(statistics.fmean(logs(watched))), 3),
        "error": round(standard_error(logs(watched)), 3),
        "other_order": round(math.exp(statistics.fmean(logs(again))), 3),
        "looks": round(statistics.fmean(looks for _, looks, _ in watched)),
        "changes": round(statistics.fmean(changes for *_, changes in watched)),
        "all": [list(losses) for losses in zip(watched, alone, again, strict=True)],
        "seeds": seeds,
    }


def standard_error(values: list[float]) -> float:
    """Of their mean; nan for a single one."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def accuracy(factor: float, depth: int, steps: int, watched: bool, seed: int) -> float:
    """On the test digits, in percent, after two slopes were multiplied."""
    split = digits()
    torch.manual_seed(seed)
    model = sc.MLP(64, 64, depth, 10)
    sc.prepare(model, split.train_x[:256])
    cores = [module for module in model.modules() if isinstance(module, sc.SigmoidCore)]
    for core in (cores[3], cores[depth // 2]):
        core.set_slope(core.alpha * factor)
    train(model, (split.train_x, split.train_y), 100, 0.03, steps, watched, seed)
    with torch.no_grad():
        return float((model(split.test_x).argmax(1) == split.test_y).float().mean()) * 100


def branched_accuracy(name: str, steps: int, watched: bool, seed: int) -> tuple[float, int]:
    """On the test digits, in percent, of a network of `_branched.py`; and the looks that changed slopes."""
    split = digits()
    torch.manual_seed(seed)
    model = BRANCHED[name]()
    sc.convert(model, centered=True)
    sc.prepare(model, split.train_x[:256])
    _, changes = train(model, (split.train_x, split.train_y), 100, 0.03, steps, watched, seed)
    with torch.no_grad():
        return float((model(split.test_x).argmax(1) == split.test_y).float().mean()) * 100, changes


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    seeds = [0] if options.quick else [0, 1, 2]
    harm_seeds = [0] if options.quick else list(range(HARM_SEEDS))
    steps = 20 if options.quick else STEPS
    report = Report(
        "equalizer",
        options,
        key=("task", "depth", "batch", "lr"),
        seeds=seeds,
        settings={"samples": SAMPLES, "width": WIDTH, "steps": steps, "epochs": EPOCHS},
    )
    for name, make in TASKS.items():
        for depth, batch, lr in SETTINGS[:1] if options.quick else SETTINGS:
            if report.wants(task=name, depth=depth, batch=batch, lr=lr):
                report.add(
                    task=name, depth=depth, batch=batch, lr=lr, **harm(make, depth, batch, lr, steps, harm_seeds)
                )
    for factor in (8.0, 1 / 20):
        name, depth = f"digits, two slopes x {factor:g}", 4 if options.quick else 30
        if report.wants(task=name, depth=depth, batch=100, lr=0.03):
            both = [
                [accuracy(factor, depth, steps if options.quick else EPOCHS * 14, watched, seed) for seed in seeds]
                for watched in (True, False)
            ]
            watched, alone = (round(statistics.median(values), 2) for values in both)
            report.add(task=name, depth=depth, batch=100, lr=0.03, watched=watched, alone=alone, all=both)
    for name in list(BRANCHED)[:2] if options.quick else BRANCHED:
        if report.wants(task=f"digits, {name}", depth=None, batch=100, lr=0.03):
            count = steps if options.quick else EPOCHS * 14
            found = [[branched_accuracy(name, count, watched, seed) for watched in (True, False)] for seed in seeds]
            report.add(
                task=f"digits, {name}",
                depth=None,
                batch=100,
                lr=0.03,
                watched=round(statistics.median(w for (w, _), _ in found), 2),
                alone=round(statistics.median(o for _, (o, _) in found), 2),
                lost=round(max(o - w for (w, _), (o, _) in found), 2),
                changes=round(statistics.fmean(changes for (_, changes), _ in found)),
                all=found,
            )
    report.finish()
    logs = [math.log(row["ratio"]) for row in report.rows if "ratio" in row]
    if logs:
        print(f"\nloss with the Equalizer over that without: {math.exp(statistics.fmean(logs)):.3f} (geometric mean)")


if __name__ == "__main__":
    main()
