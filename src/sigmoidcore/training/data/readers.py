"""Tables from files, through Apache Arrow.

Why pyarrow and not Hugging Face `datasets`: it is a dependency already, one code path (`pyarrow.dataset`) reads
Parquet and Arrow files that are larger than memory by record batches, and it writes no cache to the disk. CSV is read
as text: only `columns.py` decides about types, so that "007" stays a name if one value of the column is not a number,
and an error names the row. It is read without threads: those of pyarrow.csv can abort the interpreter at its end.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sigmoidcore.training.data.errors import DataError, check_unique, listed, needed, pa, short
from sigmoidcore.training.data.files import check_size, unpacked

TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
FEATHER = (".feather", ".arrow", ".ipc")
ARRAYS = (".npz", ".npy")
TABLE_FILES = (*TEXT, *JSON_LINES, *PARQUET, *FEATHER)
WINDOW = 65_536
"""Rows of a stream that are in memory, and shuffled, together."""
MISSING = ("", "#N/A", "<NA>", "?", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
"""Texts that stand for a missing value in CSV."""
_BLOCK = 2**24


def suffix(path: Path) -> str:
    """The ending of a file's name in small letters, including the one before `.gz`.

    Example:
        >>> suffix(Path("Prices.2024.CSV.gz"))
        '.csv.gz'
    """
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def opened(path: Path) -> Any:
    """A pyarrow.Table of a text file, `TableFiles` of a Parquet or Arrow file or a folder of them, or None."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if suffix(p) in PARQUET and not p.name.startswith("."))
        return TableFiles(tuple(files)) if files else None
    ending = suffix(path)
    if ending in (*PARQUET, *FEATHER):
        return TableFiles((path,))
    if ending not in (*TEXT, *JSON_LINES):
        return None
    table = _read_csv(path) if ending in TEXT else readable(path, _read_json_lines, path)
    check_unique(path, table.column_names)
    if not table.num_rows:
        raise DataError(f"{path} has no rows: give a file with data")
    return table


# --- text ------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Any:
    """A CSV or TSV file in UTF-8 as a pyarrow.Table of text; the first line holds the names."""
    module = needed("pyarrow.csv", "pyarrow")
    content = unpacked(path).removeprefix(b"\xef\xbb\xbf")
    _check_text(path, content)
    names, delimiter = _header(path, content)
    places = [str(place) for place in range(len(names))]
    wrong: list[Any] = []

    def remember(row: Any) -> str:
        wrong.append(row)
        return "error"

    try:
        table = module.read_csv(
            pa.py_buffer(content),
            read_options=module.ReadOptions(column_names=places, block_size=_BLOCK, use_threads=False),
            parse_options=module.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=remember
            ),
            convert_options=module.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()), null_values=MISSING, strings_can_be_null=True
            ),
        )
    except pa.ArrowException as error:
        if wrong:
            raise DataError(
                f"{path} has {wrong[0].actual_columns} instead of {len(names)} columns in row "
                f"{wrong[0].number - 1} ({short(wrong[0].text, 40)!r}): correct it, or put text that contains "
                f"{delimiter!r} into quotes"
            ) from error
        raise DataError(f"{path} cannot be read as a table ({short(error, 120)}): save it again as CSV") from error
    table = table.slice(1).rename_columns([f" {place}" for place in places])
    if not names[0]:  # the row numbers that pandas writes
        table, names = table.remove_column(0), names[1:]
    _check_names(path, names)
    return table.rename_columns(names)


def _check_text(path: Path, content: bytes) -> None:
    if not content or content.isspace():
        raise DataError(f"{path} is empty: give a file with column names in its first line and data below")
    try:
        content.decode()
        problem = content.find(b"\0")
    except UnicodeDecodeError as error:
        problem = error.start
    if problem >= 0:
        line = content[:problem].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8 text, see line {line}: save it as UTF-8, for example by iconv -f WINDOWS-1252 -t "
            f"UTF-8 {short(path.name)} > new.csv"
        )


def _header(path: Path, content: bytes) -> tuple[list[str], str]:
    """The names in the first line that is not empty, and the separator."""
    head = content[:_BLOCK].lstrip(b"\r\n").decode(errors="ignore")
    delimiter = "\t" if ".tsv" in path.suffixes else max(",;\t|", key=head.splitlines()[0].count)
    try:
        names = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter))
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path} has no column names in its first line ({short(error)}): is it a table?") from error
    return [name.strip() for name in names], delimiter


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise DataError(f"{path} has one column, without a name: write a name above each column, with commas between")
    if "" in names:
        raise DataError(f"{path} has no name for column {names.index('') + 1}: write one into the first line")
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path} has numbers instead of column names ({listed(names, 3)}): write names into the first line"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def unknown_kind(path: Path) -> DataError:
    """The error for a file of an unknown kind."""
    return DataError(
        f"{path} is of an unknown kind: its name must end with one of {', '.join((*TABLE_FILES, *ARRAYS))}"
    )


def _read_json_lines(path: Path) -> Any:
    check_size(path, path.stat().st_size)
    module = needed("pyarrow.json", "pyarrow")
    return module.read_json(path, read_options=module.ReadOptions(use_threads=False, block_size=_BLOCK))


# --- Parquet and Arrow -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Rows that are read together: row groups of at most `WINDOW` rows in all, or a larger one."""

    first: int
    rows: int
    fragments: tuple[tuple[Path, Any], ...]  # pyarrow.dataset.Fragment of each row group, with its path

    def tables(self, names: Sequence[str]) -> Iterator[Any]:
        """The rows as pyarrow.Table of at most `WINDOW` rows."""
        options = {"columns": list(names), "batch_size": WINDOW, "use_threads": False, "batch_readahead": 1}
        small: list[Any] = []
        for path, fragment in self.fragments:
            batches = readable(path, fragment.to_batches, **options)
            while (batch := readable(path, next, batches, None)) is not None:
                if suffix(path) in FEATHER:  # Arrow maps its bytes unchecked: a damaged file would crash Python
                    readable(path, batch.validate, full=True)
                if self.rows <= WINDOW:
                    small.append(pa.Table.from_batches([batch]))
                elif len(batch):
                    yield typed(pa.Table.from_batches([batch]))
        if self.rows and small:
            yield typed(pa.concat_tables(small))


@dataclass(frozen=True)
class TableFiles:
    """Parquet files with the same columns, or one Arrow file; they need not fit into memory."""

    paths: tuple[Path, ...]

    @cached_property
    def _datasets(self) -> list[Any]:
        module = needed("pyarrow.dataset", "pyarrow")
        kind = "parquet" if suffix(self.paths[0]) in PARQUET else "ipc"
        return [readable(path, module.dataset, str(path), format=kind) for path in self.paths]

    @cached_property
    def schema(self) -> Any:
        """Names and types of the columns, a pyarrow.Schema."""
        schemas = [dataset.schema.remove_metadata() for dataset in self._datasets]
        check_unique(self.paths[0], schemas[0].names)
        for path, schema in zip(self.paths, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise DataError(f"{path} has other columns than {self.paths[0]}: give files with the same columns")
        return schemas[0]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All rows, in groups in the order of the files."""
        found: list[Group] = []
        first = 0
        for path, dataset in zip(self.paths, self._datasets, strict=True):
            for fragment in readable(path, _split, dataset):
                rows = readable(path, _count_rows, fragment)
                if found and found[-1].rows + rows <= WINDOW:
                    last = found.pop()
                    found.append(Group(last.first, last.rows + rows, (*last.fragments, (path, fragment))))
                else:
                    found.append(Group(first, rows, ((path, fragment),)))
                first += rows
        return tuple(found)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(group.rows for group in self.groups)

    def table(self) -> Any:
        """All rows as a pyarrow.Table in memory."""
        names = self.schema.names
        tables = [table for group in self.groups for table in group.tables(names)]
        return pa.concat_tables(tables).replace_schema_metadata() if tables else self.schema.empty_table()

    def pieces(self, names: Sequence[str]) -> Iterator[Any]:
        """All rows in their order, as pyarrow.Table of at most `WINDOW` rows."""
        for group in self.groups:
            yield from group.tables(names)


def _split(dataset: Any) -> list[Any]:
    found: list[Any] = []
    for fragment in dataset.get_fragments():
        found += fragment.split_by_row_group() if hasattr(fragment, "split_by_row_group") else [fragment]
    return found


def _count_rows(fragment: Any) -> int:
    # count_rows() of a row group counts the rows of its file
    return (
        sum(group.num_rows for group in fragment.row_groups)
        if hasattr(fragment, "row_groups")
        else fragment.count_rows()
    )


def typed(table: Any) -> Any:
    """The table with texts of the types that pyarrow computes with, not views."""
    kinds = {"string_view": pa.string(), "binary_view": pa.binary()}
    if not any(str(field.type) in kinds for field in table.schema):
        return table
    return table.cast(pa.schema([field.with_type(kinds.get(str(field.type), field.type)) for field in table.schema]))


def readable(path: Path, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The result of `read` of these arguments."""
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty: was it cut off? copy or load it again")
        return read(*arguments, **options)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise DataError(
            f"{path} cannot be read as {path.suffix[1:]} ({short(error, 120)}): is it another kind of file, or cut off?"
        ) from error


# --- tables in memory ------------------------------------------------------------------------------------------------


def as_table(source: Any) -> Any:
    """A pandas, polars or other table with the Arrow interface (`__arrow_c_stream__`) as a pyarrow.Table."""
    if not hasattr(source, "__arrow_c_stream__") and not hasattr(source, "set_axis"):
        raise DataError(f"a {type(source).__name__} is not a table: give a pandas.DataFrame or a pyarrow.Table")
    names = [str(name) for name in getattr(source, "column_names", getattr(source, "columns", ()))]
    check_unique("the table", names)
    try:
        if hasattr(source, "set_axis"):  # pandas: without its index
            table = pa.Table.from_pandas(source.set_axis(names, axis=1), preserve_index=False)
        else:
            table = pa.table(source)
        return typed(table.replace_schema_metadata())
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"the table has a column of mixed types ({short(error, 120)}): make all its values texts, or numbers"
        ) from error


def matrix_table(values: np.ndarray) -> Any:
    """A matrix as a pyarrow.Table with columns named 0, 1, 2, ..."""
    names = [str(number) for number in range(values.shape[1])]
    return pa.table([array_column(column) for column in values.T], names=names)


def array_column(values: np.ndarray) -> Any:
    """A vector as a pyarrow.ChunkedArray; NaN is a missing value."""
    if values.dtype.kind == "f":
        return pa.chunked_array([pa.array(values.astype(np.float64), from_pandas=True)])
    if values.dtype.kind in "SU":
        try:
            return pa.chunked_array([pa.array(values.astype(str).tolist(), pa.string())])
        except UnicodeError as error:
            raise DataError(f"an array of bytes is not text ({short(error)}): give an array of str") from error
    return pa.chunked_array([pa.array(np.ascontiguousarray(values))])
