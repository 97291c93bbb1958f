"""Tables that are written piece by piece, completely or not at all."""

import gzip
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from sigmoidcore._files import complete_file
from sigmoidcore.training.data import FEATHER, PARQUET, DataError, needed, short, suffix

TEXT = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
"""Endings of text files, and their separators."""
KINDS = (*PARQUET, *TEXT, *FEATHER)
"""Known endings."""


def check_output(path: Path, overwrite: bool, source: object = None) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}; make it, or give another name")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"cannot write {path}: no permission to write in its folder; give another name")
    if isinstance(source, str | Path) and path.exists() and Path(source).exists() and path.samefile(source):
        raise DataError(f"{path} is the input: give another name")
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists: give another name, or --overwrite to replace it")


def check_table(path: Path) -> None:
    """Refuse a file name with an unknown ending."""
    if suffix(path) not in KINDS:
        raise DataError(f"{path} has an unknown ending: give a name that ends with one of {', '.join(KINDS)}")


def write_tables(path: Path, tables: Iterable[Any]) -> int:
    """Write tables with the same columns, one below the other; only one of them is in memory.

    Returns:
        Number of rows.
    """
    check_table(path)
    rows = 0
    with complete_file(path) as file:
        writer: Any = None
        close: Callable[[], None] = lambda: None  # noqa: E731
        try:
            try:
                for table in tables:
                    if writer is None:
                        writer, close = _open(suffix(path), file, table.schema)
                    writer(table)
                    rows += table.num_rows
            finally:
                close()
        except needed("pyarrow", "pyarrow").ArrowException as error:
            raise DataError(
                f"cannot write {path}, this format does not support all of these columns ({short(error, 120)}): keep "
                "others, or give a name with another ending"
            ) from error
    return rows


def _open(ending: str, file: BinaryIO, schema: Any) -> tuple[Callable[[Any], None], Callable[[], None]]:
    """A function that writes a table, and one that completes the file."""
    if ending in PARQUET:
        parquet = needed("pyarrow.parquet", "pyarrow").ParquetWriter(file, schema)
        return parquet.write_table, parquet.close
    if ending in FEATHER:
        feather = needed("pyarrow", "pyarrow").ipc.new_file(file, schema)
        return feather.write_table, feather.close
    csv = needed("pyarrow.csv", "pyarrow")
    packed = gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if ending.endswith(".gz") else None
    text = csv.CSVWriter(packed or file, schema, write_options=csv.WriteOptions(delimiter=TEXT[ending]))

    def close() -> None:
        text.close()
        if packed is not None:
            packed.close()

    return text.write_table, close
