"""The saturation level: test error at 0.25 to 4, on tables, images, regression and functions of few dimensions.

Networks of cores, width 64, 3, 10 and 30 layers; `prepare` with 256 samples, Adam at the rule's rates, the Equalizer at
its default, 600 steps of 100 samples. The error is the percentage of wrong classes, or the root mean square error over
the deviation of the target, in percent; median of 3 seeds, each with a split, or samples, of its own. A regret is the
error of one level over that of the best level in the row, both with half a percent added, so that 0.1 % is no better
than nothing; over many rows they are averaged geometrically. `auto` is the level that `prepare(saturation="auto")`
takes: the sets of at most three features are those of the kind "function".
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import sigmoidcore as sc
from _report import Report, arguments, table

LEVELS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
DEPTHS = (3, 10, 30)
WIDTH, STEPS, BATCH = 64, 600, 100
SAMPLES = 1000
SMALLEST = 0.5
AUTO = {"table": 0.5, "image": 0.5, "regression": 0.5, "function": 2.0}

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A set of inputs and targets.

    Attributes:
        kind: "table", "image", "regression", or "function" of few dimensions.
        make: inputs [samples, features] and targets (integers are classes) from a seed.
    """

    kind: str
    make: Callable[[int], Arrays]


def _function(dims: int, of: Callable[[np.ndarray], np.ndarray]) -> Problem:
    """2 x 1,000 points drawn evenly from [-1, 1]^dims, and a function of them."""

    def make(seed: int) -> Arrays:
        x = np.random.default_rng(seed).uniform(-1, 1, (2 * SAMPLES, dims))
        return x, of(x)

    return Problem("function", make)


def _spirals(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    angle = 3 * math.pi * np.sqrt(rng.uniform(0, 1, 2 * SAMPLES))
    classes = rng.integers(0, 2, 2 * SAMPLES)
    turned = angle + math.pi * classes
    x = np.stack([angle * np.cos(turned), angle * np.sin(turned)], 1) + rng.normal(0, 0.3, (2 * SAMPLES, 2))
    return x, classes


def _mnist1d(seed: int) -> Arrays:
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    args.num_samples, args.seed = 4 * SAMPLES, seed
    made = make_dataset(args)
    return np.concatenate([made["x"], made["x_test"]]), np.concatenate([made["y"], made["y_test"]])


def _shipped(load: Callable[..., Arrays]) -> Callable[[int], Arrays]:
    return lambda seed: load(return_X_y=True)


def _made(make: Callable[..., Arrays], **options: float) -> Callable[[int], Arrays]:
    return lambda seed: make(n_samples=2 * SAMPLES, random_state=seed, **options)


PROBLEMS: Mapping[str, Problem] = {
    "iris": Problem("table", _shipped(datasets.load_iris)),
    "wine": Problem("table", _shipped(datasets.load_wine)),
    "breast cancer": Problem("table", _shipped(datasets.load_breast_cancer)),
    "digits": Problem("image", _shipped(datasets.load_digits)),
    "mnist1d": Problem("image", _mnist1d),
    "diabetes": Problem("regression", _shipped(datasets.load_diabetes)),
    "friedman 1": Problem("regression", _made(datasets.make_friedman1, noise=1.0)),
    "friedman 2": Problem("regression", _made(datasets.make_friedman2)),
    "friedman 3": Problem("regression", _made(datasets.make_friedman3)),
    "wave, 1-D": _function(1, lambda x: np.sin(4 * math.pi * x[:, 0])),
    "two waves, 1-D": _function(1, lambda x: np.sin(2 * math.pi * x[:, 0]) + 0.3 * np.sin(10 * math.pi * x[:, 0])),
    "kink, 1-D": _function(1, lambda x: np.abs(x[:, 0]) + np.maximum(x[:, 0] - 0.5, 0) * 4),
    "waves, 2-D": _function(2, lambda x: np.sin(2 * math.pi * x[:, 0]) * np.cos(2 * math.pi * x[:, 1])),
    "bell, 2-D": _function(2, lambda x: np.exp(-20 * ((x[:, 0] - 0.3) ** 2 + (x[:, 1] + 0.2) ** 2))),
    "spirals, 2-D": Problem("function", _spirals),
    "rings, 3-D": _function(3, lambda x: np.sin(6 * np.linalg.norm(x, axis=1))),
}


@dataclass(frozen=True)
class Task:
    """A problem as tensors: standardised inputs, targets, and the loss."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]

    def error(self, model: nn.Module) -> float:
        """On the test samples, in percent."""
        with torch.no_grad():
            found = model(self.test_x)
        if self.loss is nn.functional.cross_entropy:
            return float((found.argmax(1) != self.test_y).float().mean()) * 100
        return float((found - self.test_y).square().mean().sqrt() / self.test_y.std()) * 100


def task(problem: Problem, seed: int) -> Task:
    x, y = problem.make(seed)
    classes = np.issubdtype(y.dtype, np.integer)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=0.5, random_state=seed, stratify=y if classes else None
    )
    scaler = StandardScaler().fit(train_x)
    inputs = [torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (train_x, test_x)]
    if classes:
        targets = [torch.tensor(part) for part in (train_y, test_y)]
        return Task(inputs[0], targets[0], inputs[1], targets[1], int(y.max()) + 1, nn.functional.cross_entropy)
    mean, deviation = train_y.mean(), train_y.std()
    targets = [torch.tensor((p - mean) / deviation, dtype=torch.float32).unsqueeze(1) for p in (train_y, test_y)]
    return Task(inputs[0], targets[0], inputs[1], targets[1], 1, nn.functional.mse_loss)


def error(problem: Problem, depth: int, level: float, seed: int, steps: int) -> float:
    """Test error after a training, in percent."""
    given = task(problem, seed)
    torch.manual_seed(seed)
    model = sc.MLP(given.train_x.shape[1], WIDTH, depth, given.outputs)
    sc.prepare(model, given.train_x[:256], targets=given.train_y[:256], loss_fn=given.loss, saturation=level)
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    with sc.Equalizer(model, optimizer):
        for step in range(steps):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * min(1.0, 2 * (1 - step / steps))
            rows = torch.randint(len(given.train_x), (BATCH,), generator=generator)
            optimizer.zero_grad()
            given.loss(model(given.train_x[rows]), given.train_y[rows]).backward()
            optimizer.step()
    return given.error(model)


def regrets(errors: Sequence[float]) -> list[float]:
    """Of every level, over the best."""
    best = min(errors)
    return [(value + SMALLEST) / (best + SMALLEST) for value in errors]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Regrets of every level and of "auto", averaged geometrically over the rows of each kind, and over all."""
    found = []
    for kind in [*dict.fromkeys(row["kind"] for row in rows), "all"]:
        each = []
        for row in rows:
            if kind in (row["kind"], "all"):
                of_levels = regrets([row[f"{level:g}"] for level in LEVELS])
                each.append([*of_levels, of_levels[LEVELS.index(AUTO[row["kind"]])]])
        means = [round(statistics.geometric_mean(column), 2) for column in zip(*each, strict=True)]
        found.append({"kind": kind, **dict(zip([*(f"{level:g}" for level in LEVELS), "auto"], means, strict=True))})
    return found


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    quick = options.quick
    steps = 20 if quick else STEPS
    report = Report(
        "saturation",
        options,
        key=("kind", "data", "depth"),
        seeds=[0] if quick else [0, 1, 2],
        settings={"width": WIDTH, "steps": steps, "batch": BATCH, "levels": list(LEVELS)},
    )
    for name, problem in PROBLEMS.items():
        for depth in (3,) if quick else DEPTHS:
            if report.wants(kind=problem.kind, data=name, depth=depth):
                found = [
                    statistics.median(error(problem, depth, level, seed, steps) for seed in report.seeds)
                    for level in LEVELS
                ]
                errors = {f"{level:g}": round(value, 2) for level, value in zip(LEVELS, found, strict=True)}
                report.add(kind=problem.kind, data=name, depth=depth, **errors)
    report.finish()
    print("\nRegret, geometric mean\n\n" + table(summary(report.rows)))


if __name__ == "__main__":
    main()
