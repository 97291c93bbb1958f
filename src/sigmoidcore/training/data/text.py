"""Tables written as text, CSV and TSV, read as they stand: every column as text, and every line checked."""

import csv
import io
from pathlib import Path
from typing import Any

from sigmoidcore.training.data.error import DataError, listed, needed, short
from sigmoidcore.training.data.packed import unpacked

MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "?", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""What stands for a missing value: what pandas takes for one, and the question mark of older collections."""
DELIMITERS = ",;\t|"
BLOCK = 2**24
"""Bytes that are read at a time; a line must not be longer."""


def read_text(path: Path) -> Any:
    """The table of a CSV or TSV file, gzipped or not, as a pyarrow.Table of text; missing values are null.

    The first line holds the names. UTF-8, with or without a byte order mark, and UTF-16 with one.

    Args:
        path: of the file. What separates the columns is found in the first line.

    Raises:
        DataError: the file is no such table.
    """
    pa, pc = needed("pyarrow", "pyarrow"), needed("pyarrow.csv", "pyarrow")
    content = _unpacked(path)
    content = _as_utf8(path, content)
    header, delimiter = _header(path, content)
    unnamed = not header[0].strip()
    names = ["" if unnamed and place == 0 else name for place, name in enumerate(header)]
    _check_names(path, names[unnamed:])
    try:
        table = pc.read_csv(
            pa.py_buffer(content),
            read_options=pc.ReadOptions(column_names=[str(n) for n in range(len(names))], block_size=BLOCK),
            parse_options=pc.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pc.ConvertOptions(
                column_types={str(n): pa.string() for n in range(len(names))},
                null_values=MISSING,
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowException as error:
        raise DataError(_what_is_wrong(path, content.decode(), delimiter, len(names), error)) from error
    table = table.slice(1).rename_columns([f" {n}" for n in range(len(names))])
    if unnamed:  # the row numbers of the program that wrote it
        table = table.remove_column(0)
    if not table.num_rows:
        raise DataError(f"{path} has column names and no rows: give a file with data in it")
    return table.rename_columns([name.strip() for name in names[unnamed:]])


def _unpacked(path: Path) -> bytes:
    try:
        content, gzipped = unpacked(path)
        if path.suffix == ".gz" and not gzipped:
            raise DataError(f"{path} is named .gz and is not gzipped: give it the name that it should have")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or short(error)}; give a file that you may read"
        ) from error
    if not content or content.isspace():
        raise DataError(f"{path} is empty: give a file with column names in its first line and data below")
    return content


def _as_utf8(path: Path, content: bytes) -> bytes:
    encoding, name = ("utf-16", "UTF-16") if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8", "UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is no {name} text, see line {line}: save it as UTF-8, for example by iconv -f WINDOWS-1252 -t "
            f"UTF-8 {path.name} > new.csv"
        ) from error
    if encoding == "utf-16":
        content = text.encode("utf-8", "replace")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path} is no text, it has a zero byte in line {line}: is it another kind of file?")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content or content.isspace():
        raise DataError(f"{path} is empty: give a file with column names in its first line and data below")
    return content


def _header(path: Path, content: bytes) -> tuple[list[str], str]:
    """The names in the first line that is not empty, and what separates them."""
    head = content[:BLOCK].lstrip(b"\r\n").decode(errors="ignore")
    first = head[: min(end for end in (head.find("\n"), head.find("\r"), len(head)) if end >= 0)]
    delimiter = "\t" if ".tsv" in path.suffixes else max(DELIMITERS, key=first.count)
    try:
        names = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter))
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path} has no column names in its first line ({short(error)}): is it a table?") from error
    return names, delimiter


def _check_names(path: Path, names: list[str]) -> None:
    names = [name.strip() for name in names]
    if not names:
        raise DataError(f"{path} has one column, without a name: write a name above each column, with commas between")
    if "" in names:
        raise DataError(f"{path} has no name for column {names.index('') + 1}: write one into the first line")
    check_unique(path, names)
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path} has numbers where the column names should be ({listed(names, 3)}): write names into the first line"
        )


def check_unique(path: object, names: list[str]) -> None:
    """Refuse names that occur twice.

    Raises:
        DataError: one does.
    """
    seen: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in seen:
            raise DataError(
                f"{path} has two columns named {short(name)!r}, number {seen[name]} and {place}: rename one of them"
            )
        seen[name] = place


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _what_is_wrong(path: Path, text: str, delimiter: str, columns: int, error: Exception) -> str:
    """Look for the line; the reader was fast and does not know it."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in rows:
            if row and len(row) != columns:
                return (
                    f"{path} has {len(row)} instead of {columns} columns in line {rows.line_num}: mend that line, or "
                    "put "
                    'text that has the separator in it into "quotes"'
                )
    except csv.Error as problem:
        return f"{path} cannot be read in line {rows.line_num} ({short(problem)}): mend that line"
    return f"{path} cannot be read as a table ({short(error, 120)}): mend it, or save it anew as CSV"
