"""The data of the lab: points in the plane, the article's six points, digits, and the visitor's own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.article import POINTS_X, POINTS_Y
from sigmoidcore.training.data import DataError, Kind, Task, digits, load, task

TRAIN, TEST = 500, 300
"""Points of the plane to learn from, and to test with."""
MOST = 5_000
"""Samples of the visitor's own data that are used."""


@dataclass(frozen=True)
class DataSet:
    """Samples as rows of numbers."""

    name: str  # of the set
    train_x: Tensor  # float32, [samples, features]
    train_y: Tensor  # class numbers, int64, [samples], or numbers, float32, [samples, numbers]
    test_x: Tensor  # like train_x
    test_y: Tensor  # like train_y
    kind: Kind  # of the target
    outputs: int  # of the network
    classes: tuple[str, ...] = ()  # their names; empty for numbers
    source: tuple[str, str | None] | None = None  # path and target of the visitor's own data

    @property
    def task(self) -> Task:
        """Loss and metric."""
        return task(self.kind)

    @property
    def features(self) -> int:
        """Numbers of a sample."""
        return self.train_x.shape[1]


def moons(count, rng):  # type: ignore[no-untyped-def]
    """Two half circles, each around the end of the other."""
    y = np.arange(count) % 2
    angle = math.pi * rng.random(count)
    x = np.stack([np.cos(angle) * (1 - 2 * y) + y, np.sin(angle) * (1 - 2 * y) + y / 2], 1)
    return (x + rng.normal(0, 0.12, x.shape) - [0.5, 0.25]) / [0.87, 0.5], y


def spirals(count, rng):  # type: ignore[no-untyped-def]
    """Two spirals of one and a quarter turns."""
    y = np.arange(count) % 2
    radius = np.sqrt(rng.random(count))
    angle = 2.5 * math.pi * radius + math.pi * y
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return 2 * (x + rng.normal(0, 0.025, x.shape)), y


def rings(count, rng):  # type: ignore[no-untyped-def]
    """A disc, and a ring around it."""
    y = np.arange(count) % 2
    radius, angle = np.where(y == 1, 1.9, 0.7) + rng.normal(0, 0.18, count), 2 * math.pi * rng.random(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), y


PLANE: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"moons": moons, "spirals": spirals, "rings": rings}


def data_set(name: str, seed: int) -> DataSet:
    """A built-in data set; the seed draws the points of the plane.

    Example:
        >>> data_set("rings", 0).train_x.shape
        torch.Size([500, 2])
    """
    if name in PLANE:
        points, numbers = PLANE[name](TRAIN + TEST, np.random.default_rng(seed))
        x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(numbers)
        return DataSet(name, x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], Kind.TWO_CLASSES, 2, ("0", "1"))
    if name == "article":
        x = torch.tensor(POINTS_X)[:, None] / 3
        y = torch.tensor(POINTS_Y)[:, None]
        return DataSet(name, x, y, x, y, Kind.NUMBER, 1)
    split = digits()
    names = tuple(str(digit) for digit in range(10))
    return DataSet(name, split.train_x, split.train_y, split.test_x, split.test_y, Kind.CLASSES, 10, names)


def own_data(path: Path, target: str | None) -> DataSet:
    """The visitor's own data, by the reader of `sigmoid-core train`; at most 5,000 samples of each part."""
    data = load(str(path), target=target).flattened()
    if math.prod(data.shape) > 10_000 or data.outputs > 100:
        raise DataError(
            "{path} has {inputs:,} inputs and {outputs} outputs: the lab takes 10,000 and 100",
            path=path, inputs=math.prod(data.shape), outputs=data.outputs,
        )  # fmt: skip
    train_x, train_y = next(data.train_batches(MOST, 0, 0))
    test_x, test_y = next(data.test_batches(MOST))
    source = str(path.absolute()), target
    return DataSet(data.name, train_x, train_y, test_x, test_y, data.kind, data.outputs, data.classes, source)
