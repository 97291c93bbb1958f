"""The columns of a table: what each one contains, and its values as a matrix for scikit-learn."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from sigmoidcore.training.data.errors import DataError, check_unique, nearest, pa, pc, short

DAY = 86_400.0
DATE_PARTS = ("days", "year sin", "year cos", "week sin", "week cos", "day sin", "day cos")
"""Features of a date: days since 1970, and its place in the year, the week and the day as points on circles."""
ISO = "ISO"
FORMATS = (ISO, "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")
"""How dates in text may be written."""
MOSTLY = 0.9
"""A text column with this fraction of numbers is a column of numbers with mistakes."""
UNKNOWN, MISSING = -1, -2
"""Numbers of a category, or of a missing one, that the training part did not have."""
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


class Role(StrEnum):
    """What a column contains."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    CATEGORY = "category"


@dataclass(frozen=True)
class Column:
    """A column of inputs."""

    name: str
    role: Role
    format: str = ISO  # how dates in text are written
    categories: tuple[str | None, ...] = ()  # the texts of the training part; None stands for a missing value

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the columns of the matrix that it becomes."""
        return tuple(f"{self.name} ({part})" for part in DATE_PARTS) if self.role is Role.DATE else (self.name,)


# --- what a column contains ------------------------------------------------------------------------------------------


def described(name: str, values: Any, text: bool) -> tuple[Column, Any]:
    """What a column contains, and its values converted from text."""
    column = typed_column(name, values.type)
    return _from_text(name, values) if text and column.role is Role.CATEGORY else (column, values)


def typed_column(name: str, kind: Any) -> Column:
    """What a column of this pyarrow type contains."""
    types = pa.types
    if types.is_boolean(kind):
        return Column(name, Role.BOOLEAN)
    if types.is_date(kind) or types.is_timestamp(kind):
        return Column(name, Role.DATE)
    if any(check(kind) for check in (types.is_integer, types.is_floating, types.is_decimal, types.is_duration)):
        return Column(name, Role.NUMBER)
    texts = (types.is_string, types.is_large_string, types.is_null)
    dictionary = types.is_dictionary(kind) and not types.is_nested(kind.value_type)
    if dictionary or any(check(kind) for check in texts) or str(kind) == "string_view":
        return Column(name, Role.CATEGORY)
    raise DataError(
        f"column {short(name)!r} has values of type {short(kind)}, and a network takes numbers, texts, dates or truth "
        "values: leave it out (--drop), or convert it"
    )


def _from_text(name: str, values: Any) -> tuple[Column, Any]:
    with contextlib.suppress(pa.ArrowInvalid):
        return Column(name, Role.NUMBER), values.cast(pa.float64())
    trimmed = pc.utf8_trim_whitespace(values)
    with contextlib.suppress(pa.ArrowInvalid):
        return Column(name, Role.NUMBER), trimmed.cast(pa.float64())
    present = trimmed.drop_null()
    if pc.all(pc.match_substring_regex(pc.utf8_lower(present), "^(true|false)$")).as_py():
        return Column(name, Role.BOOLEAN), pc.utf8_lower(trimmed).cast(pa.bool_())
    if pc.mean(pc.match_substring_regex(present, _NUMBER).cast(pa.float64())).as_py() >= MOSTLY:
        row = _first_text(trimmed)
        raise DataError(
            f"column {short(name)!r} has {short(values[row].as_py(), 30)!r} in row {row + 1}, and numbers elsewhere: "
            "correct it, leave it empty if it is unknown, or leave the column out (--drop)"
        )
    formats = [written for written in FORMATS if _dates(present, written) is not None]
    if {"%m/%d/%Y", "%d/%m/%Y"} <= set(formats):
        raise DataError(
            f"column {short(name)!r} has ambiguous dates, such as {short(present[0])}: write them as 2026-12-31"
        )
    if formats:
        return Column(name, Role.DATE, formats[0]), _dates(trimmed, formats[0])
    return Column(name, Role.CATEGORY), values


def _first_text(values: Any) -> int:
    """Place of the first text that is not a number, or -1."""
    return int(pc.index(pc.fill_null(pc.match_substring_regex(values, _NUMBER), True), False).as_py())


def _dates(values: Any, written: str) -> Any:
    """Text as timestamps in UTC; None if one is written differently."""
    kinds = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
    for start in (values.slice(0, 100), values):
        found = None
        for kind in kinds:
            with contextlib.suppress(pa.ArrowInvalid):
                found = start.cast(kind) if written == ISO else pc.strptime(start, format=written, unit="us")
                break
        if found is None:
            return None
    return found


# --- its values ------------------------------------------------------------------------------------------------------


def matrix(columns: Sequence[Column], table: Any, first: int = 0) -> np.ndarray:
    """The columns of a pyarrow.Table as float64, [rows, parts]; a missing number is NaN."""
    places = {name: place for place, name in reversed(list(enumerate(table.column_names)))}
    parts = [part for column in columns for part in column.parts]
    check_unique("the table", parts)
    found = np.empty((table.num_rows, len(parts)), order="F")
    place = 0
    for column in columns:
        if column.name not in places:
            raise DataError(f"there is no column {short(column.name)!r}: {nearest(column.name, table.column_names)}")
        values = table.column(places[column.name])
        convert = category_numbers if column.role is Role.CATEGORY else numbers
        found[:, place : place + len(column.parts)] = convert(column, values, first).T
        place += len(column.parts)
    return found


def with_categories(column: Column, values: Any) -> Column:
    """The column with the categories in these values, sorted; a missing value is the last one."""
    if column.role is not Role.CATEGORY:
        return column
    found = pc.unique(as_texts(column.name, values)).to_pylist()
    return replace(column, categories=tuple(sorted(found, key=lambda text: (text is None, text or ""))))


def category_numbers(column: Column, values: Any, first: int = 0) -> np.ndarray:
    """The places of texts in `column.categories`, float64, [1, rows]; `UNKNOWN` and `MISSING` are not among them."""
    texts = as_texts(column.name, values)
    found = pc.index_in(texts, value_set=pa.array(column.categories, pa.string()))
    found = pc.coalesce(found, pc.if_else(pc.is_null(texts), MISSING, UNKNOWN))
    return np.asarray(found.to_numpy(), dtype=np.float64)[None]


def numbers(column: Column, values: Any, first: int = 0, infinite: bool = False) -> np.ndarray:
    """The values as float64, shape [parts, rows]; NaN if missing."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    try:
        found = _date_parts(column, values) if column.role is Role.DATE else _plain_numbers(column, values)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"column {short(column.name)!r} was a {column.role} in the data that was learnt from, and here "
            f"{_misfit(column, values, first)}: correct the values, or leave unknown ones empty"
        ) from error
    if not infinite and np.isinf(found[0]).any():
        raise DataError(
            f"column {short(column.name)!r} is infinite in row {first + int(np.isinf(found[0]).argmax()) + 1}: leave "
            "it empty if it is unknown, or write the largest number that makes sense"
        )
    return found


def check_finite(columns: Sequence[Column], table: Any, first: int = 0) -> None:
    """Refuse infinite numbers; columns of categories have none."""
    for column in columns:
        if column.role is not Role.CATEGORY:
            numbers(column, table[column.name], first)


def _is_text(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _plain_numbers(column: Column, values: Any) -> np.ndarray:
    types = pa.types
    if _is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
        if column.role is Role.BOOLEAN:
            values = pc.utf8_lower(values).cast(pa.bool_())
    elif types.is_date(values.type) or types.is_timestamp(values.type):
        raise ValueError("a date is not a number")
    if types.is_duration(values.type):
        values = values.cast(pa.int64())
    if types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    found = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=np.float64).reshape(1, -1)


def _date_parts(column: Column, values: Any) -> np.ndarray:
    if _is_text(values.type):
        values = _dates(pc.utf8_trim_whitespace(values), column.format)
    if values is None or not (pa.types.is_date(values.type) or pa.types.is_timestamp(values.type)):
        raise ValueError("not a date")
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    micro = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64()).cast(pa.float64(), safe=False)
    days = np.asarray(micro.to_numpy(zero_copy_only=False), dtype=np.float64) / (1e6 * DAY)
    circles = [part(2 * np.pi * days / period) for period in (365.2425, 7.0, 1.0) for part in (np.sin, np.cos)]
    return np.stack([days, *circles])


def _misfit(column: Column, values: Any, first: int) -> str:
    """The first text that is not a number, or the type of all values."""
    if column.role is Role.NUMBER and _is_text(values.type):
        row = _first_text(values)
        if row >= 0:
            return f"row {first + row + 1} has {short(values[row].as_py(), 30)!r}"
    return f"the values are of type {short(values.type)}"


def as_texts(name: str, values: Any) -> Any:
    """Categories as a pyarrow.ChunkedArray of text."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type):
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowException as error:
        raise DataError(
            f"column {short(name)!r} has values of type {short(values.type)}, which are not categories: give texts"
        ) from error
