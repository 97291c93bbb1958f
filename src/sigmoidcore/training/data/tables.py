"""Tables in memory, of every kind of file."""

from pathlib import Path
from typing import Any

import numpy as np

from sigmoidcore.training.data.error import DataError, needed, short
from sigmoidcore.training.data.text import check_unique, read_text

TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET = (".parquet", ".pq")
FEATHER = (".feather", ".arrow", ".ipc")
ARRAYS = (".npz", ".npy")


def suffix(path: Path) -> str:
    """What a file's name ends with, in small letters; with `.gz` and what stands before it.

    Example:
        >>> suffix(Path("Prices.2024.CSV.gz"))
        '.csv.gz'
    """
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def read_table(path: Path) -> Any:
    """A CSV, TSV, Parquet or Feather file as a pyarrow.Table.

    Raises:
        DataError: it cannot be read.
    """
    ending = suffix(path)
    if ending in TEXT:
        return read_text(path)
    pa = needed("pyarrow", "pyarrow")
    if ending in PARQUET:
        table = readable(path, lambda: computable(needed("pyarrow.parquet", "pyarrow").ParquetFile(path).read()))
    else:
        read = needed("pyarrow.feather", "pyarrow").read_table
        table = readable(path, lambda: computable(read(path, memory_map=False)))
    check_unique(path, table.column_names)
    if not table.num_rows:
        raise DataError(f"{path} has columns and no rows: give a file with data in it")
    assert isinstance(table, pa.Table)
    return table


def computable(table: Any) -> Any:
    """A pyarrow.Table whose texts and bytes are of the types that pyarrow computes with, not views."""
    pa = needed("pyarrow", "pyarrow")
    kinds = {"string_view": pa.string(), "binary_view": pa.binary()}
    fields = [field.with_type(kinds.get(str(field.type), field.type)) for field in table.schema]
    return table.cast(pa.schema(fields)) if any(str(field.type) in kinds for field in table.schema) else table


def readable(path: Path, read: Any) -> Any:
    """What `read` gives.

    Raises:
        DataError: the file is not what its name says.
    """
    pa = needed("pyarrow", "pyarrow")
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty: was it cut off? copy or load it again")
        return read()
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise DataError(
            f"{path} cannot be read as {path.suffix[1:]} ({short(error, 120)}): is it another kind of file, or cut off?"
        ) from error


def as_table(source: Any) -> Any:
    """A pandas.DataFrame, or a pyarrow.Table, as a pyarrow.Table.

    Raises:
        DataError: it is neither, or has columns that are no table's.
    """
    pa = needed("pyarrow", "pyarrow")
    if isinstance(source, pa.Table):
        check_unique("the table", source.column_names)
        return computable(source)
    pandas = needed("pandas", "pandas")
    if not isinstance(source, pandas.DataFrame):
        raise DataError(f"a {type(source).__name__} is no table: give a pandas.DataFrame or a pyarrow.Table")
    names = [str(name) for name in source.columns]
    check_unique("the table", names)
    try:
        return pa.Table.from_pandas(source.set_axis(names, axis=1), preserve_index=False).replace_schema_metadata()
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"the table has a column of mixed kinds ({short(error, 120)}): make its values texts, or numbers"
        ) from error


def matrix_table(values: np.ndarray) -> Any:
    """A matrix as a pyarrow.Table with columns named 0, 1, 2, ..."""
    pa = needed("pyarrow", "pyarrow")
    columns = [pa.chunked_array([_array(values[:, n])]) for n in range(values.shape[1])]
    return pa.table(columns, names=[str(n) for n in range(values.shape[1])])


def array_column(values: np.ndarray) -> Any:
    """A vector as a pyarrow.ChunkedArray."""
    return needed("pyarrow", "pyarrow").chunked_array([_array(values)])


def _array(values: np.ndarray) -> Any:
    pa = needed("pyarrow", "pyarrow")
    if values.dtype.kind == "f":
        return pa.array(values.astype(np.float64), from_pandas=True)  # NaN is a missing value
    if values.dtype.kind in "SU":
        try:
            return pa.array(values.astype(str).tolist(), pa.string())
        except UnicodeError as error:
            raise DataError(f"an array of bytes is no text ({short(error)}): give an array of str") from error
    return pa.array(np.ascontiguousarray(values))
