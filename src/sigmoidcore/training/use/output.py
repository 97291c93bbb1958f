"""Tables that are written piece by piece: all of a file or nothing, whatever its kind."""

import gzip
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from sigmoidcore._files import whole
from sigmoidcore.training.data import FEATHER, PARQUET, DataError, needed, short, suffix

TEXT = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
"""Endings of text, and what separates the columns."""
KINDS = (*PARQUET, *TEXT, *FEATHER)
"""Endings that are known."""


def check_output(path: Path, overwrite: bool, source: object = None) -> None:
    """Refuse what cannot be written, before anything is computed.

    Args:
        path: of the file that is to be.
        overwrite: whether a file that is there may be replaced.
        source: that is read meanwhile.

    Raises:
        DataError: it cannot; the message is one line with the cause and the remedy.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}; make it, or give another name")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"cannot write {path}: its folder may not be written to; give another name")
    if isinstance(source, str | Path) and path.exists() and Path(source).exists() and path.samefile(source):
        raise DataError(f"{path} is what is read: give another name")
    if path.exists() and not overwrite:
        raise DataError(f"{path} is there already: give another name, or --overwrite to replace it")


def check_table(path: Path) -> None:
    """Refuse a name that is of no kind of table.

    Raises:
        DataError: it is.
    """
    if suffix(path) not in KINDS:
        raise DataError(f"{path} is of no kind that can be written: let its name end with one of {', '.join(KINDS)}")


def write_tables(path: Path, tables: Iterable[Any]) -> int:
    """Write tables of the same columns, one below the other; only one of them is in memory.

    Args:
        path: of the file; its ending says what it becomes: Parquet (a row group a table), CSV or TSV, either with .gz,
            or Feather.
        tables: pyarrow.Table each.

    Returns:
        Rows.

    Raises:
        DataError: the ending is not known, or such a file cannot hold the columns. Whatever else is raised, on the way
            too: no part of the file is left.
    """
    check_table(path)
    rows = 0
    with whole(path) as file:
        writer: Any = None
        close: Callable[[], None] = _nothing
        try:
            try:
                for table in tables:
                    if writer is None:
                        writer, close = _opened(suffix(path), file, table.schema)
                    writer(table)
                    rows += table.num_rows
            finally:
                close()
        except needed("pyarrow", "pyarrow").ArrowException as error:
            raise DataError(
                f"cannot write {path}, such a file does not hold all of these columns ({short(error, 120)}): keep "
                "others, or give a name with another ending"
            ) from error
    return rows


def _nothing() -> None:
    pass


def _opened(ending: str, file: BinaryIO, schema: Any) -> tuple[Callable[[Any], None], Callable[[], None]]:
    """What writes a table, and what ends the file."""
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
