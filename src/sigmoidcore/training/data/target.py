"""What is to be learnt: which kind of target it is, its classes or its scale."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.columns import Role, check_size, column, converted, counts, texts
from sigmoidcore.training.data.error import DataError, listed, needed, short
from sigmoidcore.training.data.task import Kind

MOST_CLASSES = 20
"""Whole numbers with more different values than this are numbers, not classes."""
EXACT = 2.0**53
"""Whole numbers below this are held as they are by float64."""
CLASS, NUMBER = "class", "number"
"""What a user may say that the target is."""


@dataclass(frozen=True)
class Target:
    """What is to be learnt.

    Attributes:
        names: of the columns.
        kind: classes or numbers.
        classes: their names, in the order of the network's outputs; of numbers none.
        mean: of each column of numbers, over the training part.
        scale: the standard deviation of each column of numbers, over the training part.
    """

    names: tuple[str, ...]
    kind: Kind
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """How many outputs the network has."""
        return len(self.classes) if self.kind.is_class else len(self.names)

    def encoded(self, columns: Sequence[Any], first: int = 0) -> Tensor:
        """Class numbers, int64, [rows]; or numbers with mean 0 and standard deviation 1, float32, [rows, numbers].

        Args:
            columns: pyarrow.ChunkedArray of each target column.
            first: number of the first row, for messages.

        Raises:
            DataError: a value is missing, infinite, too large, no number or none of the classes.
        """
        if self.kind.is_class:
            return torch.from_numpy(class_numbers(self.names[0], columns[0], self.classes, first))
        values = np.stack([finite(n, c, first) for n, c in zip(self.names, columns, strict=True)], axis=1)
        with np.errstate(over="ignore"):  # looked at below
            scaled = _scaler(self.mean, self.scale).transform(values)
        check_size(scaled, values, [f"target {short(name)!r}" for name in self.names], first)
        return torch.from_numpy(scaled.astype(np.float32))

    def decoded(self, outputs: Tensor) -> np.ndarray:
        """The predictions that outputs stand for: names of classes [rows], or numbers [rows, numbers] in their unit."""
        if self.kind.is_class:
            return np.array([self.classes[number] for number in outputs.argmax(1).tolist()], dtype=object)
        return np.asarray(_scaler(self.mean, self.scale).inverse_transform(outputs.detach().double().cpu().numpy()))


def _scaler(mean: Sequence[float], scale: Sequence[float]) -> Any:
    scaler = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
    scaler.mean_, scaler.scale_ = np.asarray(mean), np.asarray(scale)
    scaler.n_features_in_ = len(mean)
    return scaler


def kind_of(names: Sequence[str], columns: Sequence[Any], wanted: str | None, written: bool) -> tuple[Kind, bool]:
    """What the target is, and whether its values, classes or not, are numbers.

    Text, truth values, and whole numbers of which there are at most 20 different ones (each twice or more on average)
    are classes; other numbers are numbers.

    Args:
        names: of the target columns.
        columns: their values.
        wanted: "class" or "number" if the user has said so.
        written: whether the table was text.

    Raises:
        DataError: it is neither, or not what was said.
    """
    if wanted not in (None, CLASS, NUMBER):
        raise DataError(f"there is no kind of target {short(wanted)!r}: say {CLASS!r} or {NUMBER!r}")
    found = []
    for name, values in zip(names, columns, strict=True):
        check_complete(name, values)
        described = column(name, values, written)
        assert described is not None
        found.append(described[0])
    dates = [c.name for c in found if c.role is Role.DATE]
    if dates and wanted != CLASS:
        raise DataError(
            f"target {short(dates[0])!r} is a date: make a number of it, such as the days since another date"
        )
    if len(names) > 1:
        others = [c.name for c in found if c.role is not Role.NUMBER]
        if others or wanted == CLASS:
            name = (others or list(names))[0]
            raise DataError(
                f"several targets must all be numbers, and {short(name)!r} is none: give one target for classes"
            )
        return Kind.NUMBERS, True
    role = found[0].role
    if wanted == NUMBER and role is not Role.NUMBER:
        raise DataError(
            f"target {short(names[0])!r} was said to be a number, and is a {role}: give another target or kind"
        )
    if wanted == NUMBER:
        return Kind.NUMBER, True
    if role is Role.NUMBER and wanted is None and not _few_whole(finite(names[0], columns[0])):
        return Kind.NUMBER, True
    numeric = role is Role.NUMBER
    different = counts(labels(columns[0], numeric))
    return Kind.TWO_CLASSES if len(different) == 2 else Kind.CLASSES, numeric


def _few_whole(values: np.ndarray) -> bool:
    different = np.unique(values)
    whole = bool((different == np.round(different)).all())
    return whole and len(different) <= MOST_CLASSES and 2 * len(different) <= max(len(values), 4)


def labels(values: Any, numeric: bool) -> Any:
    """Classes as text; whole numbers without a point, however they were written."""
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.compute", "pyarrow")
    if pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if not numeric:
        return pc.utf8_trim_whitespace(texts(values))
    if pa.types.is_string(values.type):
        values = pc.utf8_trim_whitespace(values)
    values = values.cast(pa.float64(), safe=False)
    if pc.all(pc.and_(pc.equal(values, pc.round(values)), pc.less(pc.abs(values), EXACT))).as_py():
        return pc.round(values).cast(pa.int64()).cast(pa.string())
    return values.cast(pa.string())


def classes_of(name: str, found: Mapping[str, int]) -> tuple[str, ...]:
    """The classes in their order: numbers by size, texts by the alphabet.

    Raises:
        DataError: there is one, or nearly every row has its own.
    """
    rows = sum(found.values())
    if len(found) == 1:
        raise DataError(
            f"target {short(name)!r} is always {short(next(iter(found)), 30)!r}: there is nothing to learn; add rows "
            "of another class, or give another target"
        )
    if len(found) > max(2, rows // 2):
        raise DataError(
            f"target {short(name)!r} has {len(found):,} different classes in {rows:,} rows: give another target, or "
            "add rows"
        )
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return tuple(sorted(found, key=number))
    return tuple(sorted(found))


def class_numbers(name: str, values: Any, classes: Sequence[str], first: int = 0) -> np.ndarray:
    """The number of each row's class, int64.

    Raises:
        DataError: a value is missing or none of the classes.
    """
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.compute", "pyarrow")
    check_complete(name, values, first)
    types = pa.types
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    numeric = types.is_integer(values.type) or types.is_floating(values.type) or types.is_decimal(values.type)
    given = labels(values, numeric)
    found = pc.index_in(given, value_set=pa.array(classes, pa.string()))
    if found.null_count:  # numbers that were written as text, such as 1.0 for 1
        with contextlib.suppress(pa.ArrowInvalid):
            found = pc.index_in(labels(given, True), value_set=pa.array(classes, pa.string()))
    if found.null_count:
        row = pc.index(pc.is_null(found), True).as_py()
        raise DataError(
            f"target {short(name)!r} has {short(given[row].as_py(), 30)!r} in row {first + row + 1}, which is none of "
            f"its classes ({listed(classes, 5)}): mend it, or train anew with it"
        )
    return np.asarray(found.to_numpy(), dtype=np.int64)


def finite(name: str, values: Any, first: int = 0) -> np.ndarray:
    """The numbers of a target column, float64.

    Raises:
        DataError: one is missing, infinite or no number.
    """
    from sigmoidcore.training.data.columns import Column

    check_complete(name, values, first)
    found: np.ndarray = converted(Column(name, Role.NUMBER), values, first)[0]
    is_finite = np.isfinite(found)
    if not is_finite.all():
        row = int(is_finite.argmin())
        what = "not a number (NaN)" if np.isnan(found[row]) else "infinite"
        raise DataError(f"target {short(name)!r} is {what} in row {first + row + 1}: mend it, or remove the row")
    return found


def check_complete(name: str, values: Any, first: int = 0) -> None:
    """Refuse a target with missing values.

    Raises:
        DataError: a value is missing.
    """
    pc = needed("pyarrow.compute", "pyarrow")
    missing = pc.is_null(values, nan_is_null=True)
    count = pc.sum(missing).as_py()
    if count:
        row = first + pc.index(missing, True).as_py() + 1
        others = f" and {count - 1:,} more" if count > 1 else ""
        raise DataError(
            f"target {short(name)!r} is missing in row {row}{others}: nothing can be learnt from such rows; mend or "
            "remove them"
        )
