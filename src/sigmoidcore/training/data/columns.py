"""What the columns of a table are (numbers, truth values, dates, categories), and what they are as numbers."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from sigmoidcore.training.data.error import DataError, needed, short

DAY = 86_400.0
DATE_PARTS = ("days", "year sin", "year cos", "week sin", "week cos", "day sin", "day cos")
"""A date as numbers: days since 1970, and where in the year, the week and the day it is, as points on circles."""
ISO = "ISO"
FORMATS = (ISO, "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")
"""How dates in text are written; the first one that all values have."""
MOSTLY = 0.9
"""A text column with this share of numbers is a column of numbers with mistakes in it."""
LARGEST = 1e30
"""Scaled numbers beyond this are too large for float32 to compute with."""
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


class Role(StrEnum):
    """What a column is."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    CATEGORY = "category"


@dataclass(frozen=True)
class Column:
    """A column that is learnt from.

    Attributes:
        name: in the table.
        role: what it is.
        format: how dates in text are written.
    """

    name: str
    role: Role
    format: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the numbers that it becomes; of a category the one column that it is."""
        if self.role is Role.DATE:
            return tuple(f"{self.name} ({part})" for part in DATE_PARTS)
        return (self.name,)


def column(name: str, values: Any, written: bool) -> tuple[Column, Any] | None:
    """What a column is, and its values, which are text no more where they were meant to be something else.

    Args:
        name: of the column.
        values: pyarrow.ChunkedArray.
        written: whether the table was text, so that numbers and dates in it are text as well.

    Returns:
        None if there are no values.

    Raises:
        DataError: it holds what a network cannot learn from.
    """
    if values.null_count == len(values):
        return None
    found = of_type(name, values.type)
    return _of_text(name, values) if written and found.role is Role.CATEGORY else (found, values)


def of_type(name: str, kind: Any) -> Column:
    """What a column of this pyarrow type is.

    Raises:
        DataError: it holds what a network cannot learn from.
    """
    types = needed("pyarrow.types", "pyarrow")
    if types.is_dictionary(kind) and not types.is_nested(kind.value_type):
        return Column(name, Role.CATEGORY)
    if types.is_boolean(kind):
        return Column(name, Role.BOOLEAN)
    if types.is_date(kind) or types.is_timestamp(kind):
        return Column(name, Role.DATE)
    simple = (types.is_integer, types.is_floating, types.is_decimal, types.is_duration, types.is_time)
    if any(is_one(kind) for is_one in simple):
        return Column(name, Role.NUMBER)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or str(kind) == "string_view":
        return Column(name, Role.CATEGORY)
    raise DataError(
        f"column {short(name)!r} holds values of type {short(kind)}, and a network takes numbers, texts, dates or "
        "truth values: leave it out (--drop), or make columns of these kinds of it"
    )


def _of_text(name: str, values: Any) -> tuple[Column, Any]:
    """What a column of text was meant to be."""
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.compute", "pyarrow")
    with contextlib.suppress(pa.ArrowInvalid):
        return Column(name, Role.NUMBER), values.cast(pa.float64())
    trimmed = pc.utf8_trim_whitespace(values)
    with contextlib.suppress(pa.ArrowInvalid):
        return Column(name, Role.NUMBER), trimmed.cast(pa.float64())
    present = trimmed.drop_null()
    if pc.all(pc.match_substring_regex(pc.utf8_lower(present), "^(true|false)$")).as_py():
        return Column(name, Role.BOOLEAN), pc.utf8_lower(trimmed).cast(pa.bool_())
    numbers = pc.match_substring_regex(present, _NUMBER)
    if pc.mean(numbers.cast(pa.float64())).as_py() >= MOSTLY:
        row = pc.index(pc.fill_null(pc.match_substring_regex(trimmed, _NUMBER), True), False).as_py()
        raise DataError(
            f"column {short(name)!r} has {short(values[row].as_py(), 30)!r} in row {row + 1}, and numbers elsewhere: "
            "mend it, leave it empty if it is not known, or leave the column out (--drop)"
        )
    formats = [written for written in FORMATS if _is_date(present, written)]
    if {"%m/%d/%Y", "%d/%m/%Y"} <= set(formats):
        raise DataError(
            f"column {short(name)!r} has dates that can be read in two ways, such as {short(present[0])}: write them "
            "as 2026-12-31"
        )
    if formats:
        return Column(name, Role.DATE, formats[0]), _date(trimmed, formats[0])
    return Column(name, Role.CATEGORY), values


def _is_date(values: Any, written: str) -> bool:
    pa = needed("pyarrow", "pyarrow")
    try:
        _date(values.slice(0, 100), written)
        _date(values, written)
    except pa.ArrowInvalid:
        return False
    return True


def _date(values: Any, written: str) -> Any:
    """Text as timestamps in UTC; pyarrow.ArrowInvalid where one is written in another way."""
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.compute", "pyarrow")
    if written != ISO:
        return pc.strptime(values, format=written, unit="us")
    try:
        return values.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return values.cast(pa.timestamp("us", "UTC"))


def numbers(column: Column, values: Any, first: int = 0) -> np.ndarray:
    """The numbers that the values become, float64, shape [parts, rows]; NaN where a value is missing.

    Args:
        column: of the role NUMBER, BOOLEAN or DATE.
        values: pyarrow.ChunkedArray of this column, not necessarily of the type that it had when `column` was found.
        first: number of the first row, for messages.

    Raises:
        DataError: a value is not of the column's kind, or infinite.
    """
    found = converted(column, values, first)
    infinite = np.isinf(found[0])
    if infinite.any():
        raise DataError(
            f"column {short(column.name)!r} is infinite in row {first + int(infinite.argmax()) + 1}: leave it empty "
            "if it is not known, or write the largest number that makes sense"
        )
    return found


def converted(column: Column, values: Any, first: int = 0) -> np.ndarray:
    """The same as `numbers`; of numbers, some may be infinite.

    Raises:
        DataError: a value is not of the column's kind.
    """
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.compute", "pyarrow")
    types = pa.types
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    text = types.is_string(values.type) or types.is_large_string(values.type)
    try:
        if text:
            values = pc.utf8_trim_whitespace(values)
        if column.role is Role.DATE:
            return _date_parts(_date(values, column.format or ISO) if text else values)
        if types.is_date(values.type) or types.is_timestamp(values.type):
            raise ValueError("a date is no number")
        if column.role is Role.BOOLEAN and text:
            values = pc.utf8_lower(values).cast(pa.bool_())
        if types.is_temporal(values.type):
            values = values.cast(pa.int32() if values.type.bit_width == 32 else pa.int64())
        if types.is_boolean(values.type):
            values = values.cast(pa.uint8())
        found = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"column {short(column.name)!r} was a {column.role} in the data that was learnt from, and here "
            f"{_odd(column, values, first)}: mend the values, or leave those empty that are not known"
        ) from error
    return np.asarray(found, dtype=np.float64).reshape(1, -1)


def check_size(scaled: np.ndarray, rows: np.ndarray, names: Sequence[str], first: int) -> None:
    """Refuse numbers that are too large to compute with beside those that were learnt from.

    Args:
        scaled: with the mean and deviation that the column had there, [rows, columns].
        rows: as they were given.
        names: what to call each column.
        first: number of the first row, for messages.

    Raises:
        DataError: one is.
    """
    large = np.argwhere(np.abs(scaled) > LARGEST)
    if len(large):
        row, place = large[0]
        raise DataError(
            f"{names[place]} has {rows[row, place]:.1e} in row {first + row + 1}, too large to compute with: mend it, "
            "or remove the row"
        )


def _odd(column: Column, values: Any, first: int) -> str:
    """The first text that is no number, or else the type of all."""
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.compute", "pyarrow")
    if column.role is Role.NUMBER and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        row = pc.index(pc.fill_null(pc.match_substring_regex(values, _NUMBER), True), False).as_py()
        if row >= 0:
            return f"row {first + row + 1} has {short(values[row].as_py(), 30)!r}"
    return f"the values are of type {short(values.type)}"


def _date_parts(values: Any) -> np.ndarray:
    pa = needed("pyarrow", "pyarrow")
    if not (pa.types.is_date(values.type) or pa.types.is_timestamp(values.type)):
        raise ValueError("a number is no date")
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    micro = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64()).cast(pa.float64(), safe=False)
    days = np.asarray(micro.to_numpy(zero_copy_only=False), dtype=np.float64) / (1e6 * DAY)
    circles = [part(2 * np.pi * days / period) for period in (365.2425, 7.0, 1.0) for part in (np.sin, np.cos)]
    return np.stack([days, *circles])


def texts(values: Any) -> Any:
    """Categories as a pyarrow array of text."""
    pa = needed("pyarrow", "pyarrow")
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type):
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowException as error:
        raise DataError(f"values of type {short(values.type)} are no categories: give them as text") from error


def counts(values: Any) -> Mapping[str, int]:
    """How often each category is there, without the missing ones."""
    found = texts(values).drop_null().value_counts()
    return dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))


def codes(values: Any, categories: Iterable[str], missing: bool) -> np.ndarray:
    """The number of each value's category, int64, shape [rows]; -1: not among them.

    Args:
        values: pyarrow.ChunkedArray.
        categories: in their order.
        missing: whether a missing value is a category, the last one.
    """
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.compute", "pyarrow")
    known = pa.array([*categories, None] if missing else list(categories), pa.string())
    found = pc.index_in(texts(values), value_set=known, skip_nulls=not missing)
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)
