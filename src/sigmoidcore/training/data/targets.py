"""The target: its kind, its classes or its scale, and the loss and metric that follow."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigmoidcore.training.data.columns import Column, Role, as_texts, described, numbers
from sigmoidcore.training.data.errors import DataError, listed, pa, pc, short

MOST_CLASSES = 20
"""Whole numbers with more distinct values than this are numbers, not classes."""
LARGEST = 1e30
"""Scaled numbers beyond this are too large for float32."""
EXACT = 2.0**53
"""float64 represents all whole numbers below this."""
CLASS, NUMBER = "class", "number"
"""Kinds that a user may ask for."""


class Kind(StrEnum):
    """The kind of target of a data set."""

    TWO_CLASSES = "two classes"
    CLASSES = "several classes"
    NUMBER = "a number"
    NUMBERS = "several numbers"

    @property
    def is_class(self) -> bool:
        """Whether the target is a class."""
        return self in (Kind.TWO_CLASSES, Kind.CLASSES)


@dataclass(frozen=True)
class Task:
    """How outputs are compared with targets.

    Attributes:
        loss_fn: takes (outputs, targets); a mean over the samples.
        metric: takes the outputs and targets of all test samples; higher is better.
        metric_name: its name.
        unit: follows the metric's number: " %" or "".
    """

    loss_fn: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], float]
    metric_name: str
    unit: str


def task(kind: Kind) -> Task:
    """The loss and the metric for a kind of target.

    Classes: targets are class numbers, int64, shape [samples]; outputs [samples, classes]; cross-entropy, accuracy.
    Numbers: targets and outputs are float32, shape [samples, numbers]; mean squared error, R2.

    Example:
        >>> task(Kind.NUMBER).metric_name
        'R2'
    """
    if kind.is_class:
        return Task(nn.functional.cross_entropy, accuracy, "accuracy", " %")
    return Task(nn.functional.mse_loss, r2, "R2", "")


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Percentage of samples whose largest output is their class; outputs [samples, classes], targets [samples]."""
    return float((outputs.argmax(1) == targets).float().mean()) * 100


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Coefficient of determination, 1 - (squared error / variance of the targets), the mean over the columns.

    Args:
        outputs: shape [samples, numbers].
        targets: shape [samples, numbers]. A constant column counts as 1 if predicted exactly, else as 0.

    Example:
        >>> r2(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [2.0], [3.0]]))
        1.0
    """
    outputs, targets = outputs.double(), targets.double()
    error = (outputs - targets).square().sum(0)
    spread = (targets - targets.mean(0)).square().sum(0)
    constant = spread == 0
    scores = 1 - error / spread.where(~constant, 1.0)
    return float(scores.where(~constant, (error == 0).double()).mean())


@dataclass(frozen=True)
class Target:
    """A fitted target: it encodes values as tensors and decodes outputs.

    Attributes:
        names: of the columns.
        kind: classes or numbers.
        classes: their names, in the order of the network's outputs; empty for numbers.
        mean: of each column of numbers, over the training part.
        scale: standard deviation of each column of numbers, over the training part.
    """

    names: tuple[str, ...]
    kind: Kind
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        return len(self.classes) if self.kind.is_class else len(self.names)

    def encoded(self, columns: Sequence[Any], first: int = 0) -> Tensor:
        """Target columns as class numbers, int64, [rows]; or scaled numbers, float32, [rows, numbers]."""
        if self.kind.is_class:
            return torch.from_numpy(class_numbers(self.names[0], columns[0], self.classes, first))
        return self.scaled(target_numbers(self.names, columns, first), first)

    def scaled(self, values: np.ndarray, first: int = 0) -> Tensor:
        """Numbers [rows, numbers] with mean 0 and standard deviation 1 over the training part, float32."""
        with np.errstate(over="ignore"):
            scaled = (values - np.array(self.mean)) / np.array(self.scale)
        check_scaled(scaled, values, [f"target {short(name)!r}" for name in self.names], first)
        return torch.from_numpy(scaled.astype(np.float32))

    def decoded(self, outputs: Tensor) -> np.ndarray:
        """Predictions: names of classes [rows], or numbers [rows, numbers] in their unit."""
        if self.kind.is_class:
            return np.array([self.classes[number] for number in outputs.argmax(1).tolist()], dtype=object)
        return np.asarray(outputs.detach().double().cpu().numpy() * np.array(self.scale) + np.array(self.mean))


def check_scaled(scaled: np.ndarray, values: np.ndarray, names: Sequence[str], first: int) -> None:
    """Refuse numbers that are too large for float32 after scaling; arrays are [rows, columns]."""
    large = np.argwhere(np.abs(scaled) > LARGEST)
    if len(large):
        row, place = large[0]
        raise DataError(
            f"{names[place]} has {values[row, place]:.1e} in row {first + row + 1}, too large to compute with: correct "
            "it, or remove the row"
        )


# --- the target of a new data set ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetValues:
    """The target of all samples, before it is fitted."""

    names: tuple[str, ...]
    kind: Kind
    classes: tuple[str, ...]
    values: np.ndarray  # class numbers, int64, [samples]; or numbers, float64, [samples, numbers]

    def fitted(self, train: np.ndarray) -> Target:
        """The target with the scale of the training part, whose row numbers are given."""
        if self.kind.is_class:
            return Target(self.names, self.kind, self.classes)
        found = self.values[train]
        with np.errstate(all="ignore"):
            mean, scale = found.mean(0), found.std(0)
        for name, column, deviation in zip(self.names, found.T, scale, strict=True):
            if not np.isfinite(deviation):
                raise DataError(
                    f"target {short(name)!r} has numbers as large as {abs(column).max():.1e}, too large to compute "
                    "with: take their logarithm, or correct them"
                )
            if column.min() == column.max():
                raise DataError(
                    f"target {short(name)!r} is always {column[0]:g}: there is nothing to learn; give another target"
                )
        return Target(self.names, self.kind, (), tuple(mean.tolist()), tuple(scale.tolist()))

    def encoded(self, target: Target, rows: np.ndarray) -> Tensor:
        """The targets of some rows as the network learns them."""
        values = self.values[rows]
        return torch.from_numpy(values) if self.kind.is_class else target.scaled(values)

    def class_counts(self, train: np.ndarray) -> tuple[int, ...]:
        """Training samples of each class; empty for numbers."""
        if not self.kind.is_class:
            return ()
        return tuple(np.bincount(self.values[train], minlength=len(self.classes)).tolist())


def target_values(names: tuple[str, ...], columns: Sequence[Any], kind: str | None, text: bool) -> TargetValues:
    """Find out what the target is.

    Texts, truth values, and whole numbers with at most 20 distinct values (each twice or more on average) are classes.
    """
    if kind not in (None, CLASS, NUMBER):
        raise DataError(f"there is no kind of target {short(kind)!r}: say {CLASS!r} or {NUMBER!r}")
    roles = []
    for name, values in zip(names, columns, strict=True):
        check_complete(name, values)
        roles.append(described(name, values, text)[0].role)
        if roles[-1] is Role.DATE and kind != CLASS:
            raise DataError(f"target {short(name)!r} is a date: convert it to a number, such as days")
    if len(names) > 1:
        others = [name for name, role in zip(names, roles, strict=True) if role is not Role.NUMBER or kind == CLASS]
        if others:
            raise DataError(
                f"several targets must all be numbers, and {short(others[0])!r} is not: give one target for classes"
            )
        return TargetValues(names, Kind.NUMBERS, (), target_numbers(names, columns))
    if kind == NUMBER and roles[0] is not Role.NUMBER:
        raise DataError(f"target {short(names[0])!r} is a {roles[0]}, not a number: give another target or kind")
    if roles[0] is Role.NUMBER and kind != CLASS:
        found = target_numbers(names, columns)
        if kind == NUMBER or not _few_whole(found):
            return TargetValues(names, Kind.NUMBER, (), found)
    texts = labels(names[0], columns[0], roles[0] is Role.NUMBER)
    counted = texts.value_counts()
    counts = dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))
    classes = ordered_classes(names[0], counts)
    kind_found = Kind.TWO_CLASSES if len(classes) == 2 else Kind.CLASSES
    return TargetValues(names, kind_found, classes, class_numbers(names[0], texts, classes))


def _few_whole(values: np.ndarray) -> bool:
    distinct = np.unique(values)
    whole = bool((distinct == np.round(distinct)).all())
    return whole and len(distinct) <= MOST_CLASSES and 2 * len(distinct) <= max(len(values), 4)


def labels(name: str, values: Any, numeric: bool) -> Any:
    """Classes as text; whole numbers without a point."""
    if pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if not numeric:
        return pc.utf8_trim_whitespace(as_texts(name, values))
    if pa.types.is_string(values.type):
        values = pc.utf8_trim_whitespace(values)
    values = values.cast(pa.float64(), safe=False)
    if pc.all(pc.and_(pc.equal(values, pc.round(values)), pc.less(pc.abs(values), EXACT))).as_py():
        return pc.round(values).cast(pa.int64()).cast(pa.string())
    return values.cast(pa.string())


def ordered_classes(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """The classes in their order: numbers by size, texts by the alphabet."""
    rows = sum(counts.values())
    if len(counts) == 1:
        raise DataError(
            f"target {short(name)!r} is always {short(next(iter(counts)), 30)!r}: there is nothing to learn; add rows "
            "of another class, or give another target"
        )
    if len(counts) > max(2, rows // 2):
        raise DataError(
            f"target {short(name)!r} has {len(counts):,} different classes in {rows:,} rows: give another target, or "
            "add rows"
        )
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return tuple(sorted(counts, key=number))
    return tuple(sorted(counts))


def class_numbers(name: str, values: Any, classes: Sequence[str], first: int = 0) -> np.ndarray:
    """The number of each row's class, int64."""
    check_complete(name, values, first)
    types = pa.types
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    numeric = types.is_integer(values.type) or types.is_floating(values.type) or types.is_decimal(values.type)
    texts = labels(name, values, numeric)
    found = pc.index_in(texts, value_set=pa.array(classes, pa.string()))
    if found.null_count:  # numbers written as text, such as 1.0 for 1
        with contextlib.suppress(pa.ArrowInvalid):
            found = pc.index_in(labels(name, texts, True), value_set=pa.array(classes, pa.string()))
    if found.null_count:
        row = pc.index(pc.is_null(found), True).as_py()
        raise DataError(
            f"target {short(name)!r} has {short(texts[row].as_py(), 30)!r} in row {first + row + 1}, which is not one "
            f"of its classes ({listed(classes, 5)}): correct it, or train again with it"
        )
    return np.asarray(found.to_numpy(), dtype=np.int64)


def target_numbers(names: Sequence[str], columns: Sequence[Any], first: int = 0) -> np.ndarray:
    """The numbers of the target columns, float64, [rows, numbers]."""
    found = []
    for name, values in zip(names, columns, strict=True):
        check_complete(name, values, first)
        found.append(numbers(Column(name, Role.NUMBER), values, first, infinite=True)[0])
        if not np.isfinite(found[-1]).all():
            row = first + int(np.isfinite(found[-1]).argmin()) + 1
            what = "not a number (NaN)" if np.isnan(found[-1]).any() else "infinite"
            raise DataError(f"target {short(name)!r} is {what} in row {row}: correct it, or remove the row")
    return np.stack(found, axis=1)


def check_complete(name: str, values: Any, first: int = 0) -> None:
    """Refuse a target with missing values."""
    missing = pc.is_null(values, nan_is_null=True)
    count = pc.sum(missing).as_py()
    if count:
        row = first + pc.index(missing, True).as_py() + 1
        others = f" and {count - 1:,} more" if count > 1 else ""
        raise DataError(f"target {short(name)!r} is missing in row {row}{others}: fill in or remove these rows")
