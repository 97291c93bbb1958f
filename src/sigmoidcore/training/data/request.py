"""What was asked for, and what the target turns out to be."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigmoidcore.training.data.columns import counts
from sigmoidcore.training.data.error import DataError, listed, nearest, needed, short
from sigmoidcore.training.data.target import Target, class_numbers, classes_of, finite, kind_of, labels
from sigmoidcore.training.data.task import Kind

FEWEST = 4
"""Rows that a set must have."""
TEST_SIZE = 0.2
"""The share of the samples that is for the test, if nothing was said."""


@dataclass(frozen=True)
class Wanted:
    """What a user asked for, beside the source of the data; see `load`."""

    targets: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    test_size: float | None = None
    seed: int = 0
    kind: str | None = None
    in_memory: int = 2**30

    @property
    def share(self) -> float:
        """Of the samples that are for the test."""
        return TEST_SIZE if self.test_size is None else self.test_size

    def inputs(self, names: Sequence[str]) -> list[str]:
        """The names of the input columns of a table, after those of targets and dropped columns were looked at.

        Raises:
            DataError: there is no such column, or none is left.
        """
        if not self.targets:
            raise DataError(f"say which column is to be learnt (--target): there are: {listed(names)}")
        for role, given in (("target", self.targets), ("column to drop", self.drop)):
            for name in given:
                if name not in names:
                    raise DataError(f"there is no {role} {short(name)!r}: {nearest(name, names)}")
        twice = [name for name, count in Counter(self.targets).items() if count > 1]
        if twice:
            raise DataError(f"target {short(twice[0])!r} was given twice: give each column once")
        both = [name for name in self.targets if name in self.drop]
        if both:
            raise DataError(f"{short(both[0])!r} is the target and cannot be left out: take it from --drop or --target")
        outside = {*self.targets, *self.drop}
        inputs = [name for name in names if name not in outside]
        if not inputs:
            raise DataError("there is no column to learn from beside the target: give data with more columns")
        return inputs

    def without_columns(self, name: object, *, own_split: bool) -> None:
        """Refuse what means nothing where there is no table.

        Raises:
            DataError: such a thing was asked for.
        """
        if self.targets or self.drop:
            raise DataError(f"{name} has no columns: leave --target and --drop away")
        if self.kind not in (None, "class"):
            raise DataError(f"{name} has classes, not numbers: leave the kind of the target away")
        if own_split and self.test_size is not None:
            raise DataError(f"{name} has a training part and a test part already: leave --test-size away")


@dataclass(frozen=True)
class Known:
    """The target of all samples.

    Attributes:
        names: of its columns.
        kind: classes or numbers.
        classes: their names, in order; of numbers none.
        values: class numbers, int64, [samples]; or numbers, float64, [samples, numbers].
    """

    names: tuple[str, ...]
    kind: Kind
    classes: tuple[str, ...]
    values: np.ndarray

    def fitted(self, train: np.ndarray) -> Target:
        """The target with the scale that its numbers have in the training part, whose row numbers are given.

        Raises:
            DataError: the numbers are all the same there, or too large.
        """
        if self.kind.is_class:
            return Target(self.names, self.kind, self.classes)
        found = self.values[train]
        scaler = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
        with np.errstate(all="ignore"):  # looked at below
            scaler.fit(found)
        for name, numbers, scale in zip(self.names, found.T, scaler.scale_, strict=True):
            if not np.isfinite(scale):
                raise DataError(
                    f"target {short(name)!r} has numbers as large as {abs(numbers).max():.1e}, too large to compute "
                    "with: take their logarithm, or mend them"
                )
            if numbers.min() == numbers.max():
                raise DataError(
                    f"target {short(name)!r} is always {numbers[0]:g}: there is nothing to learn; give another target"
                )
        return Target(self.names, self.kind, (), tuple(scaler.mean_.tolist()), tuple(scaler.scale_.tolist()))

    def class_counts(self, train: np.ndarray) -> tuple[int, ...]:
        """Training samples of each class; of numbers none."""
        if not self.kind.is_class:
            return ()
        return tuple(np.bincount(self.values[train], minlength=len(self.classes)).tolist())

    def parts(self, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
        """The row numbers of both parts, in an order of chance; classes have the same share in both.

        Raises:
            DataError: there are too few samples.
        """
        rows = len(self.values)
        stratify = self.values if self.kind.is_class else None
        if stratify is not None:
            found = np.bincount(stratify, minlength=len(self.classes))
            if found.min() < 2:
                rare = self.classes[int(found.argmin())]
                raise DataError(
                    f"class {short(rare, 30)!r} has one sample, and each class must be in both parts: add samples of "
                    "it, or remove it"
                )
        split = needed("sklearn.model_selection", "scikit-learn").train_test_split
        try:
            train, test = split(
                np.arange(rows), test_size=wanted.share, random_state=wanted.seed % 2**32, stratify=stratify
            )
        except ValueError as error:
            groups = f" of {len(self.classes)} classes" if self.classes else ""
            raise DataError(
                f"{rows:,} samples{groups} cannot be split with a share of {wanted.share} for the test: each class "
                "must be in both parts; give another --test-size, or more samples"
            ) from error
        return np.asarray(train), np.asarray(test)


def known(wanted: Wanted, columns: Sequence[Any], *, written: bool) -> Known:
    """The target in the values of its columns, pyarrow.ChunkedArray each; `written`: the table was text.

    Raises:
        DataError: a value is missing, or there is nothing to learn.
    """
    kind, numeric = kind_of(wanted.targets, columns, wanted.kind, written)
    if not kind.is_class:
        numbers = [finite(name, values) for name, values in zip(wanted.targets, columns, strict=True)]
        return Known(wanted.targets, kind, (), np.stack(numbers, axis=1))
    name = wanted.targets[0]
    texts = labels(columns[0], numeric)
    classes = classes_of(name, counts(texts))
    return Known(wanted.targets, kind, classes, class_numbers(name, texts, classes))


def check_rows(name: object, rows: int) -> None:
    """Refuse a set that is too small.

    Raises:
        DataError: it is.
    """
    if rows < FEWEST:
        count = "no rows" if not rows else "one row" if rows == 1 else f"{rows} rows"
        raise DataError(f"{name} has {count}: give at least {FEWEST}, and better some hundreds")
