"""The columns of a table: what each one contains, and its values as numbers.

Text is examined in the same way whatever file or library it comes from, so a table has the same inputs in every format.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from sigmoidcore.training.data.errors import DataError, nearest, pa, pc
from sigmoidcore.language import _
from unstuck.language.errors import short

MISSING = ("", "#N/A", "<NA>", "?", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
"""Texts that stand for a missing value."""
DAY = 86_400e6
"""Microseconds."""
PERIODS = {"year": 365.2425 * DAY, "week": 7 * DAY, "day": DAY}
DATE_PARTS = ("days", *(f"{period} {part}" for period in PERIODS for part in ("sin", "cos")))
"""Features of a date: days since 1970, and its place in the year, the week and the day as points on circles."""
LARGEST = 1e100
"""Larger numbers are not computed with: their squares come near to the largest number."""
MOSTLY = 0.9
"""A text column with this fraction of numbers is a column of numbers with mistakes."""
UNKNOWN_CATEGORY, MISSING_CATEGORY = -1, -2
"""Numbers of a category, or of a missing one, that the training part did not have."""
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_THOUSANDS = r"^\s*[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*$"


class Role(StrEnum):
    """What a column contains."""

    NUMBER = "number"
    BOOLEAN = "truth value"
    DATE = "date"
    CATEGORY = "category"

    @property
    def noun(self) -> str:
        """The word for a value, in the user's language."""
        words = {"number": _("number"), "truth value": _("truth value"), "date": _("date"), "category": _("category")}
        return words[self]


@dataclass(frozen=True)
class Column:
    """A column of inputs."""

    name: str
    role: Role
    parts: tuple[str, ...] = ("",)  # of a date: the features that differ between rows
    categories: tuple[str | None, ...] = ()  # the texts of the training part; None stands for a missing value

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the columns of the matrix that it becomes."""
        return tuple(f"{self.name} ({part})" if part else self.name for part in self.parts)


def describe(name: str, values: Any) -> Column:
    """What a column contains, found from its type and, if it is text, from its values."""
    kind, types = values.type, pa.types
    if types.is_boolean(kind):
        return Column(name, Role.BOOLEAN)
    if types.is_date(kind) or types.is_timestamp(kind):
        return Column(name, Role.DATE, DATE_PARTS)
    if is_number(kind):
        return Column(name, Role.NUMBER)
    if types.is_null(kind) or (types.is_dictionary(kind) and not types.is_nested(kind.value_type)):
        return Column(name, Role.CATEGORY)
    if is_text(kind):
        return _describe_text(name, as_texts(name, values).drop_null())
    raise DataError(
        "column {name!r} has values of type {kind}, and a network takes numbers, texts, dates or "
        "truth values: leave it out (--drop), or convert it",
        name=short(name),
        kind=short(kind),
    )


def _describe_text(name: str, present: Any) -> Column:
    if len(present):
        numeric = pc.match_substring_regex(present, f"{_NUMBER}|{_THOUSANDS}")
        if pc.mean(numeric.cast(pa.float64())).as_py() >= MOSTLY:
            return Column(name, Role.NUMBER)  # other text is refused when the numbers are read
        for role, parse in _PARSERS.items():
            if _converts(parse, present):
                return Column(name, role, DATE_PARTS if role is Role.DATE else ("",))
    return Column(name, Role.CATEGORY)


def is_number(kind: Any) -> bool:
    """Whether a pyarrow type is one of numbers."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def is_float(text: str) -> bool:
    """Whether Python reads a text as a number."""
    return _converts(float, text)


def is_text(kind: Any) -> bool:
    """Whether a pyarrow type is one of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


# --- text ------------------------------------------------------------------------------------------------------------


def as_texts(name: str, values: Any) -> Any:
    """Values as a pyarrow.ChunkedArray of text; words for a missing value are null."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    with DataError.replacing(
        "column {name!r} has values of type {type}, which are not categories: give texts",
        pa.ArrowException, name=short(name), type=short(values.type),
    ):  # fmt: skip
        texts = values.cast(pa.string())
    absent = pc.is_in(texts, value_set=pa.array(MISSING))
    return pc.if_else(absent, pa.scalar(None, pa.string()), texts) if pc.any(absent).as_py() else texts


def with_type(texts: Any) -> Any:
    """Text from a CSV file as whole numbers, or as numbers, if they can be written as the same text again."""
    for kind, pattern in ((pa.int64(), ""), (pa.float64(), r"(\.(0|\d*[1-9]))?")):
        with contextlib.suppress(pa.ArrowInvalid):
            if pc.all(pc.match_substring_regex(texts, rf"^-?(0|[1-9]\d*){pattern}$")).as_py():
                return texts.cast(kind)
    return texts


def _converts(convert: Callable[[Any], Any], values: Any) -> bool:
    try:
        convert(values)
    except (pa.ArrowException, ValueError):
        return False
    return True


def _parse_numbers(texts: Any) -> Any:
    with contextlib.suppress(pa.ArrowInvalid):
        return texts.cast(pa.float64())
    plain = pc.if_else(pc.match_substring_regex(texts, _THOUSANDS), pc.replace_substring(texts, ",", ""), texts)
    return pc.utf8_trim_whitespace(plain).cast(pa.float64())


def _parse_truth(texts: Any) -> Any:
    return pc.utf8_trim_whitespace(texts).cast(pa.bool_())


def _parse_dates(texts: Any) -> Any:
    """Timestamps in UTC, in microseconds."""
    texts = pc.utf8_trim_whitespace(texts)
    with contextlib.suppress(pa.ArrowInvalid):
        return texts.cast(pa.timestamp("us"))
    return texts.cast(pa.timestamp("us", "UTC"))


_PARSERS: Mapping[Role, Callable[[Any], Any]] = {
    Role.NUMBER: _parse_numbers, Role.BOOLEAN: _parse_truth, Role.DATE: _parse_dates,
}  # fmt: skip


# --- numbers ---------------------------------------------------------------------------------------------------------


def placed(columns: Sequence[Column]) -> Iterator[tuple[Column, slice]]:
    """Each column with its place in the matrix."""
    place = 0
    for column in columns:
        yield column, slice(place, place + len(column.parts))
        place += len(column.parts)


def matrix(columns: Sequence[Column], table: Any, first: int | np.ndarray = 0) -> np.ndarray:
    """The columns of a pyarrow.Table as float64, [rows, parts]; a missing number is NaN.

    `first` is the number of the first row, or the number of each row, for messages.
    """
    places = {name: place for place, name in reversed(list(enumerate(table.column_names)))}
    found = np.empty((table.num_rows, sum(len(column.parts) for column in columns)), order="F")
    for column, place in placed(columns):
        if column.name not in places:
            raise DataError(
                "there is no column {name!r}: {hint}",
                name=short(column.name),
                hint=nearest(column.name, table.column_names),
            )
        values = table.column(places[column.name])
        convert = _category_numbers if column.role is Role.CATEGORY else numbers
        found[:, place] = convert(column, values, first).T
    return found


def _category_numbers(column: Column, values: Any, first: int | np.ndarray) -> np.ndarray:
    texts = as_texts(column.name, values)
    found = pc.index_in(texts, value_set=pa.array(column.categories, pa.string()))
    found = pc.coalesce(found, pc.if_else(pc.is_null(texts), MISSING_CATEGORY, UNKNOWN_CATEGORY))
    return np.asarray(found.to_numpy(), dtype=np.float64)[None]


def numbers(column: Column, values: Any, first: int | np.ndarray = 0, target: bool = False) -> np.ndarray:
    """The values of a column, float64, [parts, rows]; a missing value is NaN."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    name = short(column.name)
    name = _("target {name!r}", name=name) if target else _("column {name!r}", name=name)
    try:
        found = _numbers(column, values)
    except (pa.ArrowException, ValueError) as error:
        if not is_text(values.type):
            raise DataError(
                "{name} was a {role} in the data that was learnt from, and here the values are of "
                "type {type}: convert them",
                name=name,
                role=column.role.noun,
                type=short(values.type),
            ) from error
        row = _first_misfit(column, values)
        raise DataError(
            "{name} has {value!r} in row {row}, and is a {role} elsewhere: correct it, leave it "
            "empty if it is unknown, or train without the column (--drop)",
            name=name,
            value=short(values[row].as_py(), 30),
            row=_number(first, row),
            role=column.role.noun,
        ) from error
    large = np.flatnonzero(np.abs(found[0]) > LARGEST)
    if len(large):
        raise DataError(
            "{name} has {value:.1e} in row {row}, too large to compute with: correct it, or leave "
            "it empty if it is unknown",
            name=name,
            value=found[0, large[0]],
            row=_number(first, int(large[0])),
        )
    return found


def _number(first: int | np.ndarray, place: int) -> int:
    return int(first + place if isinstance(first, int) else first[place]) + 1


def _numbers(column: Column, values: Any) -> np.ndarray:
    types = pa.types
    if types.is_null(values.type):
        return np.full((len(column.parts), len(values)), np.nan)
    is_date = types.is_date(values.type) or types.is_timestamp(values.type)
    if is_text(values.type):
        values = _PARSERS[column.role](as_texts(column.name, values))
    elif is_date != (column.role is Role.DATE):
        raise ValueError("another type")
    if column.role is Role.DATE:
        kind = pa.timestamp("us", getattr(values.type, "tz", None))
        micro = _floats(values.cast(kind, safe=False).cast(pa.int64()))
        return np.stack([_date_part(micro, part) for part in column.parts])
    return _floats(values.cast(pa.uint8()) if types.is_boolean(values.type) else values)[None]


def _floats(values: Any) -> np.ndarray:
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _date_part(micro: np.ndarray, part: str) -> np.ndarray:
    """A feature of dates in microseconds; the remainder is exact, so dates without a time have equal parts of a day."""
    if part == "days":
        return micro / DAY
    period, function = part.split()
    angle = 2 * np.pi * np.mod(micro, PERIODS[period]) / PERIODS[period]
    return np.asarray(np.sin(angle) if function == "sin" else np.cos(angle))


def _first_misfit(column: Column, texts: Any) -> int:
    """Number of the first row that cannot be converted, by bisection."""
    start, end = 0, len(texts)
    while end - start > 1:
        middle = (start + end) // 2
        fits = _converts(lambda values: _numbers(column, values), texts.slice(start, middle - start))
        start, end = (middle, end) if fits else (start, middle)
    return start
