"""The data of the lab and the demo: points in the plane, the article's six points, digits, and the visitor's own."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from sigmoidcore.article import POINTS_X, POINTS_Y

TRAIN, TEST = 500, 300  # points of the plane to learn from, and to test with
MOST = 5_000  # rows of the visitor's own table that are used


@dataclass(frozen=True)
class DataSet:
    """Samples as rows of numbers."""

    train_x: Tensor  # float32, [samples, features]
    train_y: Tensor  # class numbers, int64, [samples], or numbers, float32, [samples, outputs]
    test_x: Tensor
    test_y: Tensor
    outputs: int  # of a network
    classes: int = 0  # their number; 0 for numbers
    source: tuple[str, str] | None = None  # path and target of the visitor's own data
    offset: float = 0.0  # that an accident has added to all inputs

    @property
    def features(self) -> int:
        """Numbers of a sample."""
        return self.train_x.shape[1]

    @property
    def loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss of (outputs, targets)."""
        return nn.functional.cross_entropy if self.classes else nn.functional.mse_loss

    def moved(self, by: float) -> Self:
        """The same with larger inputs."""
        return replace(self, train_x=self.train_x + by, test_x=self.test_x + by, offset=self.offset + by)

    def score(self, outputs: Tensor) -> float:
        """Accuracy in percent, or R2, of outputs for the test samples."""
        if self.classes:
            return float((outputs.argmax(1) == self.test_y).float().mean()) * 100
        return float(r2_score(self.test_y.numpy(), outputs.numpy()))


def moons(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles, each around the end of the other."""
    y = np.arange(count) % 2
    angle = math.pi * rng.random(count)
    x = np.stack([np.cos(angle) * (1 - 2 * y) + y, np.sin(angle) * (1 - 2 * y) + y / 2], 1)
    return (x + rng.normal(0, 0.12, x.shape) - [0.5, 0.25]) / [0.87, 0.5], y


def spirals(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two spirals of one and a quarter turns."""
    y = np.arange(count) % 2
    radius = np.sqrt(rng.random(count))
    angle = 2.5 * math.pi * radius + math.pi * y
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return 2 * (x + rng.normal(0, 0.025, x.shape)), y


def rings(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A disc, and a ring around it."""
    y = np.arange(count) % 2
    radius, angle = np.where(y == 1, 1.9, 0.7) + rng.normal(0, 0.18, count), 2 * math.pi * rng.random(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), y


PLANE = {"moons": moons, "spirals": spirals, "rings": rings}


def data_set(name: str, seed: int = 0) -> DataSet:
    """A built-in data set; the seed draws the points of the plane."""
    if name in PLANE:
        points, numbers = PLANE[name](TRAIN + TEST, np.random.default_rng(seed))
        x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(numbers)
        return DataSet(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], outputs=2, classes=2)
    if name == "article":
        x, y = torch.tensor(POINTS_X)[:, None] / 3, torch.tensor(POINTS_Y)[:, None]
        return DataSet(x, y, x, y, outputs=1)
    return DataSet(*digits(), outputs=10, classes=10)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits, 8 x 8 pixels: 1,400 samples to learn from with their classes, and 397 to test with.

    Pixels have mean 0 and deviation 1 over all pixels to learn from: a border pixel that is rarely set should not
    become as large as a central one.
    """
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=397, random_state=0, stratify=y)
    mean, deviation = float(train_x.mean()), float(train_x.std())
    train_x, test_x = (torch.tensor((x - mean) / deviation, dtype=torch.float32) for x in (train_x, test_x))
    return train_x, torch.tensor(train_y), test_x, torch.tensor(test_y)


def own_data(path: Path, target: str) -> DataSet:
    """The visitor's own table, as `sigmoid-core train` reads it: at most 5,000 rows, a fifth of them to test with."""
    from sigmoidcore.tables.model import learnt
    from sigmoidcore.tables.reading import read_file

    model, _, table, answers = learnt(read_file(path), target)
    rows = np.random.default_rng(0).permutation(len(table))[:MOST]
    test, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    preprocessing = model.candidates(0)["Sigmoid Core"][:-1]
    inputs = preprocessing.fit_transform(table.iloc[train]), preprocessing.transform(table.iloc[test])
    train_x, test_x = (torch.tensor(part, dtype=torch.float32) for part in inputs)
    classes = len(model.classes)
    if not classes:
        answers = ((answers - answers[train].mean()) / answers[train].std())[:, None].astype(np.float32)
    train_y, test_y = (torch.from_numpy(answers[part]) for part in (train, test))
    source = str(path.absolute()), target
    return DataSet(train_x, train_y, test_x, test_y, outputs=classes or 1, classes=classes, source=source)
