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
MONEY = "(?:[A-Z]{0,2}[$€¥￥£₹]|元|USD|EUR|GBP|CHF|CNY|RMB|JPY|INR)"
UNIT = r"(?:[%‰°℃$€¥￥£₹㎀-㏿]|[^\W\d_])[^0-9]{0,11}(?:(?<=[mt])[23])?"  # "120 m2", "5,000元/平米", "12.3%"
NUMBER = {
    sign: rf"\(?[+−-]?\s*(?:{MONEY}|%)?\s*[+−-]?\s*"
    rf"((?:[0-9]+|[1-9][0-9]{{0,2}}(?:[{other} \u00a0\u202f'’][0-9]{{2,3}})*[{other} \u00a0\u202f'’][0-9]{{3}})"
    rf"(?:[{sign}][0-9]*)?|[{sign}][0-9]+)((?:[eE][+-]?[0-9]+)?)\s*(?:{UNIT})?\)?"
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
    unit: str = ""  # of numbers in text: "€", "%", "m"
    form: str = ""  # of dates in text


class File(NamedTuple):
    """A table whose texts are not interpreted yet."""

    path: Path
    table: pd.DataFrame
    form: str  # for people
    decimal: str = "."  # of columns that do not show it

    def check(self, *names: str, remedy: str = "choose from") -> None:
        """Raise an InputError if a column is not there; the columns that are follow the remedy."""
        if absent := [name for name in names if name not in self.table]:
            wanted = short(", ".join(map(repr, absent)), 100)
            raise InputError(f"{self.path} has no column {wanted}: {remedy} {short(', '.join(self.table), 200)}")


def read_file(path: Path) -> File:
    """Read a Parquet or CSV file, or raise an InputError."""
    data = path.read_bytes()
    if not data:
        raise InputError(f"{path} is empty: save the table again, with the names of its columns in the first line")
    if data[:4] == b"PAR1":
        with InputError.replacing("{path} cannot be read as Parquet: {error}", OSError, ValueError, path=path):
            table = pd.read_parquet(io.BytesIO(data)).rename(columns=str).reset_index(drop=True)
        if table.empty:
            raise InputError(f"{path} has no rows, or no columns")
        return File(path, table, "Parquet")
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[1:2] == b"\0"
    for encoding in ("UTF-16",) if wide else ("UTF-8-sig", "GB18030", "Windows-1252"):
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if encoding == "UTF-8-sig" and "\0" in text and not re.search("[\1-\x08\x0e-\x1f]", text):
                line = text.partition("\0")[0].count("\n") + 1
                raise InputError(f"{path} has a NUL character in line {line}: remove it")
            # Accented letters, read as GB18030, are rare characters of Chinese.
            others = re.findall(r"[^\0-\x7f]", text[:1_000_000])
            usual = sum(b"\xa1" <= each.encode("gb2312", "ignore")[:1] < b"\xd8" for each in others)
            if "\0" not in text and (encoding != "GB18030" or 2 * usual >= len(others)):
                return _csv(path, text, encoding.removesuffix("-sig"))
    raise InputError(f"{path} is neither CSV nor Parquet: open it in its own program and save it as CSV in UTF-8")


def _csv(path: Path, text: str, encoding: str) -> File:
    """The cells of a CSV file as texts; the separator is the one that cuts the first line into most names."""
    text = re.sub(r"\Asep=.\r?\n", "", text)  # of Excel
    with InputError.replacing("{path} is not a table: {error}", csv.Error, path=path):
        head = text.lstrip()[:100_000].splitlines()[:1]
        separator = max(";\t|,", key=lambda sign: len(next(csv.reader(head, delimiter=sign), "")))
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row] or [[""]]
    while len(rows) > 1 and not "".join(rows[-1]).strip():  # of spreadsheets
        rows.pop()
    names = [name.strip() for name in rows[0]]
    wrong = next((n for n, row in enumerate(rows) if len(row) != len(names)), 0)
    line = short(separator.join(rows[wrong]))
    # Without a name: the row numbers of pandas, and the empty columns of spreadsheets.
    used = [n for n, name in enumerate(names) if name or (n and any("".join(row[n : n + 1]).strip() for row in rows))]
    unclear = next((n for n in used if not names[n] or names.index(names[n]) < n), 0)
    for problem, found in {
        "no rows below the names of its columns": len(rows) < 2,
        f"{len(rows[wrong])} instead of {len(names)} columns in row {wrong}: {line!r}": wrong,
        f"numbers in its first line, and no names: {line!r}": not re.search("[^0-9.,+-]", "".join(names)),
        f"columns without a name, or with the same name: {short(names[unclear])!r}, column {unclear + 1}": unclear,
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
    column, cells = known or Column(name), file.table[name].astype(object)
    present = values = cells.dropna()
    kind = pd.api.types.infer_dtype(cells)
    if kind in ("datetime64", "datetime", "date"):
        kind, values = "date", pd.to_datetime(present, errors="coerce", utc=True).dt.tz_localize(None)
    elif kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        kind, values = "number", present.astype(float)
    elif kind not in ("string", "empty", "boolean"):
        raise InputError(f"column {short(name)!r} has {short(present.iloc[0], 30)!r} ({kind}): leave it out")
    if kind not in ("date", "number") or column.kind not in ("", kind):
        present = present.astype(str).str.strip().str.removesuffix(".0" if kind == "number" else "").astype(object)
        present = present[~present.isin(MISSING)]
        kind, (values, column) = "text", _dates(file, *_numbers(file, present, column))
    column = column._replace(kind=column.kind or kind)
    good = values.abs() <= LARGEST if column.kind == "number" else values.notna()
    if not good.all():
        usual = present[good].iloc[0] if good.any() else column.form or f"0{column.decimal or '.'}5{column.unit}"
        raise InputError(
            f"column {short(name)!r} has {short(present[good.idxmin()], 30)!r} in row {good.idxmin() + 1}, not a "
            f"{column.kind} like {short(usual, 30)!r}: correct it, empty it if it is unknown, or drop the row"
            + ("" if known else " (or --drop the column)")
        )
    return values.reindex(cells.index, fill_value="" if column.kind == "text" else None), column


def _decimal(cells: Any, default: str) -> str:
    """The decimal sign of most texts that are a number with one sign, and not with the other."""
    point, comma = (cells.str.fullmatch(NUMBER[sign], na=False).astype(bool) for sign in ".,")
    lead = (point & ~comma).sum() - (comma & ~point).sum()
    return default if lead == 0 else "." if lead > 0 else ","


def _numbers(file: File, cells: Any, column: Column) -> tuple[Any, Column]:
    """Texts as numbers, if they are; NaN for a mistake."""
    units = cells.str.replace(r"[.,]?[0-9][0-9.,'’\s]*(?:[eE][+-]?[0-9]+)?", "", regex=True).str.strip("+−-()\u00a0 ")
    if not column.kind:
        numbers = cells.str.fullmatch("|".join(NUMBER.values())).astype(bool)
        counts = units[numbers].value_counts()
        unit = next((each for each in counts.index if each), "")
        if not re.fullmatch(f"{MONEY}*", unit) and counts[unit] < counts.get("", 0):
            unit = ""
        usual = (units == unit) | units.str.fullmatch(f"{MONEY}*|%").astype(bool)
        if (numbers & usual).mean() >= MOSTLY:
            column = column._replace(kind="number", unit=unit)
    if column.kind != "number":
        return cells, column
    column = column._replace(decimal=column.decimal or _decimal(cells, file.decimal))
    found = cells.str.extract(f"^{NUMBER[column.decimal]}$")
    digits = found[0].str.replace(f"[^0-9{column.decimal}]", "", regex=True).str.replace(",", ".") + found[1]
    values = digits.astype(float) * (1 - 2 * cells.str.contains("^[^0-9.,]*[(−-]").astype(int))
    bare = (units == "") & bool(re.fullmatch(f"{MONEY}*", column.unit))  # without its sign, 0.12 could be 12 %
    return values.where((units == column.unit) | bare), column


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
    return values, column._replace(kind="date", form=form)
