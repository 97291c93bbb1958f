"""Tables that are written piece by piece, completely or not at all."""

import gzip
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from sigmoidcore._files import complete_file
from sigmoidcore.training.data import FEATHER, PARQUET, DataError, disarmed, needed, short, suffix
from sigmoidcore.training.runs.folder import run_of

TEXT = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
"""Endings of text files, and their separators."""
KINDS = (*PARQUET, *TEXT, *FEATHER)
"""Known endings."""


def same_file(one: Any, other: Any) -> bool:
    """Whether two names belong to the same file; no for tables in memory."""
    try:
        return os.path.samefile(one, other)
    except (OSError, TypeError, ValueError):
        return False


def check_output(path: Path, overwrite: bool, source: object = None) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}; make it, or give another name")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"cannot write {path}: no permission to write in its folder; give another name")
    if same_file(path, source):
        raise DataError(f"{path} is the input: give another name")
    if (run := run_of(path)) is not None:
        raise DataError(f"{path} is a file of the run {run}: give another name")
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists: give another name, or --overwrite to replace it")


def check_table(path: Path) -> None:
    """Refuse a file name with an unknown ending."""
    if suffix(path) not in KINDS:
        raise DataError(f"{path} has an unknown ending: give a name that ends with one of {', '.join(KINDS)}")


def write_tables(path: Path, tables: Iterable[Any], progress: Callable[[int], object] | None = None) -> int:
    """Write tables with the same columns, one below the other; only one of them is in memory.

    Args:
        path: of the file; `check_table` accepts it.
        tables: at least one pyarrow.Table.
        progress: called with the number of rows so far.

    Returns:
        Number of rows.
    """
    rows = 0
    try:
        with complete_file(path) as file, ExitStack() as stack:
            write: Callable[[Any], None] | None = None
            for table in tables:
                table = disarmed(table) if suffix(path) in TEXT else table
                write = write or _writer(suffix(path), file, table.schema, stack)
                write(table)
                rows += table.num_rows
                if progress is not None:
                    progress(rows)
    except needed("pyarrow", "pyarrow").ArrowException as error:
        raise DataError(
            f"cannot write {path}, this format does not support all of these columns ({short(error, 120)}): keep "
            "others, or give a name with another ending"
        ) from error
    return rows


def _writer(ending: str, file: BinaryIO, schema: Any, stack: ExitStack) -> Callable[[Any], None]:
    """A function that writes a table; the stack completes the file."""
    writer: Any
    if ending in PARQUET:
        writer = needed("pyarrow.parquet", "pyarrow").ParquetWriter(file, schema)
    elif ending in FEATHER:
        writer = needed("pyarrow", "pyarrow").ipc.new_file(file, schema)
    else:
        csv = needed("pyarrow.csv", "pyarrow")
        packed: Any = file
        if ending.endswith(".gz"):
            packed = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", mtime=0))
        writer = csv.CSVWriter(packed, schema, write_options=csv.WriteOptions(delimiter=TEXT[ending]))
    write: Callable[[Any], None] = stack.enter_context(writer).write_table
    return write
