"""Tables from files, through Apache Arrow.

`pyarrow.dataset` reads Parquet and Arrow files that are larger than memory by record batches, without a cache on the
disk. CSV is read as text: only `columns.py` decides about types, and an error names the row. It is read without
threads: those of pyarrow.csv can abort the interpreter at its end.
"""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sigmoidcore.training.data.columns import MISSING, is_float
from sigmoidcore.training.data.errors import DataError, check_unique, listed, needed, pa
from sigmoidcore.training.data.files import text_of
from sigmoidcore.language import _
from unstuck.language.errors import short

TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
FORMATS = {".parquet": "parquet", ".pq": "parquet", ".feather": "ipc", ".arrow": "ipc", ".ipc": "ipc", ".orc": "orc"}
"""Formats of pyarrow.dataset, by the suffix of the file."""
PARQUET = tuple(ending for ending, form in FORMATS.items() if form == "parquet")
ARRAYS = (".npz", ".npy")
TABLE_FILES = (*TEXT, *FORMATS)
WINDOW = 65_536
"""Rows of a stream that are in memory, and shuffled, together."""
_BLOCK = 2**24


def suffix(path: Path) -> str:
    """The ending of a file's name in small letters, including the one before `.gz`."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


@dataclass(frozen=True)
class MemoryTable:
    """A pyarrow.Table in memory."""

    table: Any

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.table.column_names)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    def pieces(self, names: Sequence[str]) -> Iterator[Any]:
        """Some columns of all rows, as pyarrow.Table of at most `WINDOW` rows."""
        chosen = self.table.select(list(names))
        yield from (chosen.slice(start, WINDOW) for start in range(0, self.rows, WINDOW))


def opened(path: Path) -> "MemoryTable | TableFiles | None":
    """A table file, or a folder of Parquet files; None for another kind of file."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if suffix(p) in PARQUET and not p.name.startswith("."))
        return TableFiles(tuple(files)) if files else None
    ending = suffix(path)
    if ending in FORMATS:
        return TableFiles((path,))
    return MemoryTable(_read_csv(path)) if ending in TEXT else None


def unknown_kind(path: Path) -> DataError:
    """The error for a file of an unknown kind."""
    return DataError(
        "{path} is of an unknown kind: its name must end with one of {endings}, or it must be a "
        "folder of Parquet files",
        path=path,
        endings=", ".join((*TABLE_FILES, *ARRAYS)),
    )


# --- text ------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Any:
    """A CSV or TSV file in UTF-8 as a pyarrow.Table of text; the first line holds the names."""
    module = needed("pyarrow.csv", "pyarrow")
    content = text_of(path)
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
        ).slice(1)
    except pa.ArrowException as error:
        if wrong:
            raise DataError(
                "{path} has {found} instead of {count} columns in row {number} ({text!r}): correct it, or put text "
                "that contains {delimiter!r} into quotes",
                path=path, found=wrong[0].actual_columns, count=len(names), number=wrong[0].number - 1,
                text=short(wrong[0].text, 40), delimiter=delimiter,
            ) from error  # fmt: skip
        raise DataError(
            "{path} cannot be read as a table ({error}): save it again as CSV", path=path, error=short(error, 120)
        ) from error
    if not names[0]:  # the row numbers that pandas writes
        table, names = table.remove_column(0), names[1:]
    _check_names(path, names)
    check_unique(path, names)
    return table.rename_columns(names)


def _header(path: Path, content: bytes) -> tuple[list[str], str]:
    """The names in the first line that is not empty, and the separator."""
    head = content[:_BLOCK].lstrip(b"\r\n").decode(errors="ignore")
    delimiter = "\t" if ".tsv" in path.suffixes else max(",;\t|", key=head.splitlines()[0].count)
    with DataError.replacing(
        "{path} has no column names in its first line ({error}): is it a table?", csv.Error, StopIteration, path=path
    ):
        names = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter))
    return [name.strip() for name in names], delimiter


def _check_names(path: Path, names: list[str]) -> None:
    problem = ""
    if "" in names or not names:
        problem = _("no name for column {number}", number=names.index("") + 1 if names else 1)
    elif all(is_float(name) for name in names):
        problem = _("numbers instead of column names ({names})", names=listed(names, 3))
    if problem:
        raise DataError(
            "{path} has {problem}: write a name above each column in the first line", path=path, problem=problem
        )


# --- Parquet and Arrow -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowGroup:
    """Rows that are read together: row groups of at most `WINDOW` rows in all, or a larger one."""

    first: int
    rows: int
    fragments: tuple[Any, ...]  # pyarrow.dataset.Fragment of each row group

    def tables(self, names: Sequence[str]) -> Iterator[Any]:
        """The rows as pyarrow.Table of at most `WINDOW` rows."""
        tables = (table for fragment in self.fragments for table in _tables(fragment, names))
        if self.rows > WINDOW:
            yield from tables
        elif self.rows:
            yield pa.concat_tables(tables)


def _tables(fragment: Any, names: Sequence[str]) -> Iterator[Any]:
    path = Path(fragment.path)
    with _reading(path):
        for batch in fragment.to_batches(columns=list(names), batch_size=WINDOW, use_threads=False, batch_readahead=1):
            if FORMATS[suffix(path)] != "parquet":  # unchecked: Arrow maps its bytes, and ORC takes any for a text
                batch.validate(full=True)
            yield _without_views(pa.Table.from_batches([batch]))


@dataclass(frozen=True)
class TableFiles:
    """Parquet files with the same columns, or one Arrow file; they need not fit into memory."""

    paths: tuple[Path, ...]

    @cached_property
    def _datasets(self) -> list[Any]:
        module, found = needed("pyarrow.dataset", "pyarrow"), []
        for path in self.paths:
            with _reading(path):
                found.append(module.dataset(str(path), format=FORMATS[suffix(path)]))
        return found

    @cached_property
    def names(self) -> list[str]:
        """Names of the columns."""
        schemas = [dataset.schema.remove_metadata() for dataset in self._datasets]
        with _reading(self.paths[0]):  # a damaged name is not UTF-8
            check_unique(self.paths[0], schemas[0].names)
        for path, schema in zip(self.paths, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise DataError(
                    "{path} has other columns than {first}: give files with the same columns",
                    path=path, first=self.paths[0],
                )  # fmt: skip
        return list(schemas[0].names)

    @cached_property
    def groups(self) -> tuple[RowGroup, ...]:
        """All rows, in groups in the order of the files."""
        found: list[RowGroup] = []
        first = 0
        for path, dataset in zip(self.paths, self._datasets, strict=True):
            with _reading(path):
                fragments = [part for fragment in dataset.get_fragments() for part in _row_groups(fragment)]
            for fragment, rows in fragments:
                if found and found[-1].rows + rows <= WINDOW:
                    last = found.pop()
                    found.append(RowGroup(last.first, last.rows + rows, (*last.fragments, fragment)))
                else:
                    found.append(RowGroup(first, rows, (fragment,)))
                first += rows
        return tuple(found)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(group.rows for group in self.groups)

    def pieces(self, names: Sequence[str]) -> Iterator[Any]:
        """Some columns of all rows, as pyarrow.Table of at most `WINDOW` rows."""
        yield from (table for group in self.groups for table in group.tables(names))


def _row_groups(fragment: Any) -> list[tuple[Any, int]]:
    """The row groups of a Parquet file, or an Arrow file, each with its number of rows."""
    if not hasattr(fragment, "split_by_row_group"):
        return [(fragment, fragment.count_rows())]
    return [(part, sum(group.num_rows for group in part.row_groups)) for part in fragment.split_by_row_group()]


def _without_views(table: Any) -> Any:
    """The table with texts of the type that pyarrow computes with."""
    kinds = {"string_view": pa.string(), "binary_view": pa.binary()}
    if not any(str(kind) in kinds for kind in table.schema.types):
        return table
    return table.cast(pa.schema([field.with_type(kinds.get(str(field.type), field.type)) for field in table.schema]))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of pyarrow as a DataError."""
    with DataError.replacing(
        "{path} cannot be read as {suffix} ({error}): is it another kind of file, or cut off?",
        pa.ArrowException, OSError, ValueError, TypeError, MemoryError, OverflowError,
        path=path, suffix=path.suffix[1:],
    ):  # fmt: skip
        if not path.stat().st_size:
            raise DataError("{path} is empty: was it cut off? copy or load it again", path=path)
        yield


def as_table(source: Any) -> Any:
    """A pandas, polars or other table with the Arrow interface (`__arrow_c_stream__`) as a pyarrow.Table."""
    if not hasattr(source, "__arrow_c_stream__") and not hasattr(source, "set_axis"):
        raise DataError(
            "a {kind} is not a table: give a pandas.DataFrame or a pyarrow.Table", kind=type(source).__name__
        )
    names = [str(name) for name in getattr(source, "column_names", getattr(source, "columns", ()))]
    check_unique(_("the table"), names)
    with DataError.replacing(
        "the table has a column of mixed types ({error}): make all its values texts, or numbers",
        pa.ArrowException, ValueError, TypeError, OverflowError,
    ):  # fmt: skip
        if hasattr(source, "set_axis"):  # pandas: without its index
            table = pa.Table.from_pandas(source.set_axis(names, axis=1), preserve_index=False)
        else:
            table = pa.table(source)
        return _without_views(table.replace_schema_metadata())
