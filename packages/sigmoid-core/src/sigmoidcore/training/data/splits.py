"""Which samples are for training, validation and testing; and the order of the training samples in an epoch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.errors import DataError, needed
from sigmoidcore.language import _
from unstuck.language.errors import short


class SplitError(DataError):
    """There are too few samples for a part."""


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part, in random order."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def of_rows(self) -> np.ndarray:
        """The part of each row, int8: 0 is training, 1 validation, 2 test."""
        found = np.zeros(len(self.train) + len(self.validation) + len(self.test), np.int8)
        found[self.validation], found[self.test] = 1, 2
        return found


def random_parts(
    rows: int, labels: np.ndarray | None, classes: tuple[str, ...], test: float, validation: float, seed: int
) -> Parts:
    """Split samples; each class has the same share in all parts. Validation takes its part from the training part."""
    if labels is not None:
        counts = np.bincount(labels, minlength=len(classes))
        if counts.min() < 2:
            raise DataError(
                "class {name!r} has one sample, and each class must be in all parts: add samples of it, or remove it",
                name=short(classes[int(counts.argmin())], 30),
            )
    train, tested = _split(np.arange(rows), labels, test, seed, "test")
    if not validation:
        return Parts(train, train[:0], tested)
    return Parts(*_split(train, labels, validation, seed, "validation"), tested)


def _split(
    rows: np.ndarray, labels: np.ndarray | None, share: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    split = needed("sklearn.model_selection", "scikit-learn").train_test_split
    stratify = None if labels is None else labels[rows]
    with SplitError.replacing(
        "{count:,} samples cannot be split with a fraction of {share} for the {part} part: each class must be in both "
        "parts; give another --{name}-size, or more samples",
        ValueError,
        count=len(rows),
        share=share,
        part={"test": _("test"), "validation": _("validation")}[name],
        name=name,
    ):
        first, second = split(rows, test_size=share, random_state=seed % 2**32, stratify=stratify)
    return np.asarray(first), np.asarray(second)


def mixed(*numbers: int) -> int:
    """One seed from several numbers, at least 0; similar numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The numbers 0 to `count` - 1 in the order of this epoch, int64; seed and epoch alone decide."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed, epoch)))


def reshuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The same in the order of a loop that shuffles with one generator: for the built-in sets."""
    generator = torch.Generator().manual_seed(seed)
    for _earlier in range(epoch):
        torch.randperm(count, generator=generator)
    return torch.randperm(count, generator=generator)
