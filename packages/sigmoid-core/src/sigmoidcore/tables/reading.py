"""Tables as people have them: Parquet, or CSV with the usual encodings, separators, notations of numbers and dates."""

import csv
import io
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from unstuck.language.errors import InputError, short

MISSING = ["", "-", "--", "?", "N/A", "n/a", "NA", "NULL", "null", "NaN", "nan", "None", "<NA>"]
MISSING += ["#N/A", "#DIV/0!", "#NAME?", "#NUM!", "#REF!", "#VALUE!"]  # of spreadsheets
MOSTLY = 0.9  # a column with this fraction of numbers, or of dates, is one of these, with mistakes
LARGEST = 1e100  # the square of a larger number may overflow
UNITS = "€$¥￥£₹元%"  # left out beside a number: "12.3%" is 12.3
NUMBER = {
    sign: rf"\(?(?:[+−-]?\s*[{UNITS}]?|[{UNITS}]\s*[+−-]?)\s*"
    rf"(?:(?:[0-9]+|[1-9][0-9]{{0,2}}(?:[{other} \u00a0\u202f'’][0-9]{{2,3}})*[{other} \u00a0\u202f'’][0-9]{{3}})"
    rf"(?:[{sign}][0-9]*)?|[{sign}][0-9]+)(?:[eE][+-]?[0-9]+)?\s*[{UNITS}]?\)?"
    for sign, other in (".,", ",.")
}  # regular expressions, with a decimal point and with a decimal comma
DATES = "%d{0}%m{0}%Y", "%d{0}%m{0}%y", "%Y{0}%m{0}%d", "%m{0}%d{0}%y", "%m{0}%d{0}%Y"
NAMED = "%Y年%m月%d日", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d-%b-%y"
TIMES = "", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p"


class Column(NamedTuple):
    """How the cells of a column are read."""

    name: str
    kind: str = ""  # "number", "date" or "text"; empty if it is not known yet
    decimal: str = ""  # of numbers in text: "." or ","
    unit: str = ""  # of numbers in text: one of UNITS
    form: str = ""  # of dates in text


class File(NamedTuple):
    """A table whose texts are not interpreted yet."""

    path: Path
    table: pd.DataFrame
    form: str  # for people
    decimal: str = "."  # of columns that do not show it

    def column(self, name: str) -> Any:
        """The cells of a column, a pandas.Series of objects, or an InputError."""
        if name not in self.table:
            names = short(", ".join(self.table), 200)
            raise InputError(f"{self.path} has no column {short(name)!r}: choose from {names}")
        return self.table[name].astype(object)


def read_file(path: Path) -> File:
    """Read a Parquet or CSV file, or raise an InputError."""
    data = path.read_bytes()
    if data[:4] == b"PAR1":
        with InputError.replacing("{path} cannot be read as Parquet: {error}", OSError, ValueError, path=path):
            table = pd.read_parquet(io.BytesIO(data)).rename(columns=str).reset_index(drop=True)
            if table.empty:
                raise ValueError("no rows")
            return File(path, table, "Parquet")
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[1:2] == b"\0"
    for encoding in ("UTF-16",) if wide else ("UTF-8-sig", "GB18030", "Windows-1252"):
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            # Accented letters, read as GB18030, are rare characters of Chinese.
            others = re.findall(r"[^\0-\x7f]", text[:1_000_000])
            usual = sum(b"\xa1" <= each.encode("gb2312", "ignore")[:1] < b"\xd8" for each in others)
            if "\0" not in text and (encoding != "GB18030" or 2 * usual >= len(others)):
                return _csv(path, text, encoding.removesuffix("-sig"))
    raise InputError(f"{path} is neither Parquet nor CSV: save it, a workbook for example, as CSV in UTF-8")


def _csv(path: Path, text: str, encoding: str) -> File:
    """The cells of a CSV file as texts; the separator is the one that cuts the first line into most names."""
    text = re.sub(r"\Asep=.\r?\n", "", text)  # of Excel
    with InputError.replacing("{path} is not a table: {error}", csv.Error, path=path):
        head = text.lstrip()[:100_000].splitlines()[:1]
        separator = max(";\t|,", key=lambda sign: len(next(csv.reader(head, delimiter=sign), "")))
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row] or [[]]
    while len(rows) > 1 and not "".join(rows[-1]).strip():  # of spreadsheets
        rows.pop()
    names = [name.strip() for name in rows[0]]
    wrong = next((n for n, row in enumerate(rows) if len(row) != len(names)), 0)
    line = short(separator.join(rows[wrong]))
    # Without a name: the row numbers of pandas, and the empty columns of spreadsheets.
    used = [n for n, name in enumerate(names) if name or (n and any("".join(row[n : n + 1]).strip() for row in rows))]
    for problem, found in {
        "no rows below the names of its columns": len(rows) < 2,
        f"{len(rows[wrong])} instead of {len(names)} columns in row {wrong}: {line!r}": wrong,
        f"numbers in its first line, and no names: {line!r}": all(re.fullmatch(NUMBER["."], names[n]) for n in used),
        f"columns without a name, or with the same name: {line!r}": len({names[n] for n in used} - {""}) < len(used),
    }.items():
        if found:
            raise InputError(f"{path} has {problem}")
    table = pd.DataFrame(rows[1:], dtype=object).iloc[:, used].set_axis([names[n] for n in used], axis=1)
    decimal = _decimal(table[:1000].melt()["value"].str.strip(), "," if separator == ";" and names[1:] else ".")
    return File(path, table, f"{encoding}, separated by {separator!r}", decimal)


def interpret(file: File, name: str, known: Column | None = None) -> tuple[Any, Column]:
    """The values of a column as a pandas.Series, and how its cells are read: as in `known`, or as they show it.

    Numbers are float64 with NaN, dates datetime64 with NaT, texts str with "" for a missing value.
    """
    column, cells = known or Column(name), file.column(name)
    kind = pd.api.types.infer_dtype(cells)
    with InputError.replacing("column {name!r}: {error}; --drop it", TypeError, ValueError, name=short(name)):
        if kind in ("datetime64", "datetime", "date"):
            kind, cells = "date", pd.to_datetime(cells, utc=True).dt.tz_localize(None)
        elif kind not in ("string", "empty", "boolean"):
            kind, cells = "number", cells.astype(float)
    if kind not in ("date", "number") or column.kind not in ("", kind):
        ending = ".0" if kind == "number" else ""
        cells = cells.map(lambda cell: str(cell).strip().removesuffix(ending), na_action="ignore")
        kind, cells = "text", cells.mask(cells.isin(MISSING)).astype(object)
    values = present = cells.dropna()
    if kind == "text":
        values, column = _dates(file, *_numbers(file, present, column))
    column = column._replace(kind=column.kind or kind)
    if column.kind == "number":
        _check(column, present, values.abs() <= LARGEST)
    values = values.reindex(cells.index)
    return values.fillna("") if column.kind == "text" else values, column


def _check(column: Column, cells: Any, good: Any) -> None:
    """Refuse the first cell that is not good."""
    if not good.all():
        like = f" such as {short(cells[good].iloc[0], 30)!r}" if good.any() else ""
        raise InputError(
            f"column {short(column.name)!r} has {short(cells[good.idxmin()], 30)!r} in row {good.idxmin() + 1}, and "
            f"{column.kind}s{like} elsewhere: correct it, leave it empty if it is unknown, or --drop the column"
        )


def _decimal(cells: Any, default: str) -> str:
    """The decimal sign of most texts that are a number with one sign, and not with the other."""
    point, comma = (cells.str.fullmatch(NUMBER[sign], na=False).astype(bool) for sign in ".,")
    lead = (point & ~comma).sum() - (comma & ~point).sum()
    return default if lead == 0 else "." if lead > 0 else ","


def _numbers(file: File, cells: Any, column: Column) -> tuple[Any, Column]:
    """Texts as numbers, if they are."""
    units = cells.str.extract(f"([{UNITS}])", expand=False)
    if not column.kind and cells.str.fullmatch("|".join(NUMBER.values())).mean() >= MOSTLY:
        column = column._replace(kind="number", unit="".join(units.mode()[:1]))
    if column.kind != "number":
        return cells, column
    column = column._replace(decimal=column.decimal or _decimal(cells, file.decimal))
    fits = (units == column.unit) | (units.isna() & (column.unit != "%"))  # without its sign, 0.12 could be 12 %
    _check(column, cells, fits & cells.str.fullmatch(NUMBER[column.decimal]).astype(bool))
    digits = cells.str.replace(f"[^0-9{column.decimal}eE+−(-]", "", regex=True).str.replace(",", ".")
    return digits.str.replace("[−(]", "-", regex=True).astype(float), column


def _dates(file: File, cells: Any, column: Column) -> tuple[Any, Column]:
    """Texts as dates, if they are: the day comes first beside points, and in files with decimal commas."""
    if column.kind not in ("", "date") or not (column.kind or cells.str.contains("[0-9][^0-9]+[0-9]").any()):
        return cells, column
    read = partial(pd.to_datetime, errors="coerce", utc=True)
    orders = {sign: DATES if sign == "." or file.decimal == "," else DATES[::-1] for sign in "./-"}
    forms = [order.format(sign) + time for sign in orders for order in orders[sign] for time in TIMES]
    some = cells.drop_duplicates().sample(frac=1, random_state=0)[:1000]
    form = column.form or max(["ISO8601", *NAMED, *forms], key=lambda form: read(some, format=form).notna().sum())
    values = read(cells, format=form).dt.tz_localize(None)
    if not column.kind and values.notna().mean() < MOSTLY:
        return cells, column
    column = column._replace(kind="date", form=form)
    _check(column, cells, values.notna())
    return values, column
