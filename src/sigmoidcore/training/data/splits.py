"""Which samples are for training, validation and testing; and the order of the training samples in an epoch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.errors import DataError, needed, short


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part, in random order."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def random_parts(rows: int, classes: tuple[str, ...], labels: Any, test: float, validation: float, seed: int) -> Parts:
    """Split samples; each class has the same share in all parts. Validation takes its part from the training part."""
    if labels is not None:
        counts = np.bincount(labels, minlength=len(classes))
        if counts.min() < 2:
            raise DataError(
                f"class {short(classes[int(counts.argmin())], 30)!r} has one sample, and each class must be in all "
                "parts: add samples of it, or remove it"
            )
    train, tested = _split(np.arange(rows), labels, test, seed, "test")
    if not validation:
        return Parts(train, train[:0], tested)
    return Parts(*_split(train, labels, validation, seed, "validation"), tested)


def _split(rows: np.ndarray, labels: Any, share: float, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    split = needed("sklearn.model_selection", "scikit-learn").train_test_split
    stratify = None if labels is None else labels[rows]
    try:
        first, second = split(rows, test_size=share, random_state=seed % 2**32, stratify=stratify)
    except ValueError as error:
        raise DataError(
            f"{len(rows):,} samples cannot be split with a fraction of {share} for the {name} part: each class must be "
            f"in both parts; give another --{name}-size, or more samples"
        ) from error
    return np.asarray(first), np.asarray(second)


@dataclass(frozen=True)
class HashedSplit:
    """The split of a stream: seed and row number decide, so that no list of rows is needed."""

    test: float
    validation: float
    seed: int

    def part(self, rows: np.ndarray) -> np.ndarray:
        """The part of each row: 0 is training, 1 validation, 2 test."""
        chance = uniform(rows, self.seed)
        last = self.test + (1 - self.test) * self.validation
        return (chance < last).astype(np.int8) + (chance < self.test)


def uniform(rows: np.ndarray, seed: int) -> np.ndarray:
    """A uniform random number in [0, 1) for each row number, by splitmix64.

    Example:
        >>> int((uniform(np.arange(10_000), 0) < 0.2).sum())
        2035
    """
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(mixed(seed))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.asarray(z / 2.0**64)


# --- order of the samples --------------------------------------------------------------------------------------------


def mixed(*numbers: int) -> int:
    """One seed from several numbers, at least 0; similar numbers give unrelated seeds.

    Example:
        >>> mixed(0, 1) != mixed(1, 0)
        True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The numbers 0 to `count` - 1 in the order of this epoch, int64; seed and epoch alone decide.

    Example:
        >>> bool((shuffled(5, 0, 1) == shuffled(5, 0, 1)).all()), sorted(shuffled(5, 0, 1).tolist())
        (True, [0, 1, 2, 3, 4])
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed, epoch)))


def reshuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The same in the order of a loop that shuffles with one generator: for the built-in sets.

    Example:
        >>> generator = torch.Generator().manual_seed(3)
        >>> orders = [torch.randperm(5, generator=generator) for _ in range(2)]
        >>> torch.equal(reshuffled(5, 3, 1), orders[1])
        True
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch):
        torch.randperm(count, generator=generator)
    return torch.randperm(count, generator=generator)
