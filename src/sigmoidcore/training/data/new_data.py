"""Data that a network has not seen: read piece by piece, in their order, and made numbers as a run has learnt to.

`pieces` takes what `load` takes, with the target or without it. Parquet files and images are read some at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.arrays import inputs_of, read_arrays
from sigmoidcore.training.data.builtin import TABLES, built_in_table
from sigmoidcore.training.data.error import DataError, listed, nearest, short
from sigmoidcore.training.data.new_samples import pieces_of_samples
from sigmoidcore.training.data.novelties import Surprises
from sigmoidcore.training.data.parquet import WINDOW, Files
from sigmoidcore.training.data.preprocessing import Preprocessing, Table, picked
from sigmoidcore.training.data.tables import (
    ARRAYS,
    FEATHER,
    PARQUET,
    TEXT,
    array_column,
    as_table,
    matrix_table,
    read_table,
    suffix,
)
from sigmoidcore.training.data.target import Target


@dataclass(frozen=True)
class Piece:
    """Some samples of new data, one after the other.

    Attributes:
        first: number of the first sample, from 0.
        inputs: of the network, float32, [samples, ...].
        targets: class numbers or scaled numbers, where they were asked for.
        kept: columns that go with the predictions: pyarrow arrays by name.
    """

    first: int
    inputs: Tensor
    targets: Tensor | None
    kept: dict[str, Any]


class Unseen:
    """New data, to be read once.

    Args:
        source: a file or folder of any kind that `load` reads; a pandas.DataFrame, pyarrow.Table or NumPy array.
        preprocessing: of the run.
        targets: whether the targets are wanted as well.
        keep: columns of a table that go with the predictions.
        accept_unknown: whether categories that were not learnt from are taken as none of those that were.

    Raises:
        DataError: it cannot be read, or lacks columns; the message is one line with the cause and the remedy.
    """

    def __init__(
        self, source: Any, preprocessing: Preprocessing, *, targets: bool = False, keep: Sequence[str] = (),
        accept_unknown: bool = False,
    ) -> None:  # fmt: skip
        self._source = source
        self._preprocessing = preprocessing
        self._targets = targets
        self._keep = tuple(keep)
        inputs = preprocessing.inputs
        self._surprises = Surprises(inputs, accept_unknown) if isinstance(inputs, Table) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the rows that have been read so far."""
        return () if self._surprises is None else self._surprises.notes()

    def pieces(self) -> Iterator[Piece]:
        """The samples in their order.

        Raises:
            DataError: a value does not fit.
        """
        try:
            if self._surprises is not None:
                yield from self._of_table()
                return
            if self._keep:
                raise DataError(f"there is no column {short(self._keep[0])!r}: the data have samples and no columns")
            for first, x, y, kept in pieces_of_samples(self._source, self._preprocessing, self._targets):
                yield Piece(first, x, y, kept)
        except FileNotFoundError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(
                f"{self._source} cannot be read: {error.strerror or short(error)}; give one that you may read"
            ) from error

    def _of_table(self) -> Iterator[Piece]:
        preprocessing, surprises = self._preprocessing, self._surprises
        inputs, target = preprocessing.inputs, preprocessing.target
        assert isinstance(inputs, Table)
        assert surprises is not None
        wanted = list(dict.fromkeys((*inputs.names, *(target.names if self._targets else ()), *self._keep)))
        rows = 0
        for table in tables(self._source, wanted, inputs, target):
            columns = picked(table, wanted)
            surprises.see(columns, rows)
            x = torch.from_numpy(inputs.apply(columns, rows))
            y = target.encoded([columns[name] for name in target.names], rows) if self._targets else None
            yield Piece(rows, x, y, {name: columns[name] for name in self._keep})
            rows += table.num_rows
        if not rows:
            raise DataError(f"{_named(self._source)} has no rows: give data with some")


def tables(source: Any, wanted: Sequence[str], inputs: Table, target: Target) -> Iterator[Any]:
    """The rows of a source as one pyarrow.Table after the other, each with the wanted columns.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    if isinstance(source, str) and source in TABLES:
        table = as_table(built_in_table(source))
    elif isinstance(source, str | Path):
        path = Path(source)
        ending = suffix(path)
        found = _parquet(path)
        if found is not None:
            _check_columns(source, found.schema.names, wanted, inputs)
            yield from (table for _, table in found.pieces(wanted))
            return
        if not path.is_file():
            raise DataError(f"{path} is no file that is there, and no folder of Parquet files: give a table")
        if ending not in (*TEXT, *FEATHER, *ARRAYS):
            known = ", ".join((*TEXT, *PARQUET, *FEATHER, *ARRAYS))
            raise DataError(f"{path} is of no kind that can be read: its name must end with one of {known}")
        table = _arrays(path, target) if ending in ARRAYS else read_table(path)
    elif isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "biufSU":
            raise DataError(
                f"an array of shape {list(source.shape)} and type {source.dtype} is no table: give a matrix of "
                "numbers, [rows, columns], or a pandas.DataFrame"
            )
        table = matrix_table(source)
    else:
        table = as_table(source)
    _check_columns(source, table.column_names, wanted, inputs)
    for start in range(0, table.num_rows, WINDOW):
        yield table.slice(start, WINDOW)


def _parquet(path: Path) -> Files | None:
    if path.is_dir():
        files = tuple(sorted(p for p in path.iterdir() if suffix(p) in PARQUET and not p.name.startswith(".")))
        return Files(files) if files else None
    return Files((path,)) if path.is_file() and suffix(path) in PARQUET else None


def _arrays(path: Path, target: Target) -> Any:
    """An NPZ file's inputs as columns 0, 1, 2, ..., and its targets if they are there; or the matrix of an NPY file."""
    arrays = read_arrays(path)
    x, y = (arrays[""], None) if "" in arrays else inputs_of(path, arrays, target.names)
    if x.ndim != 2 or not x.size:
        raise DataError(f"{path} has inputs of shape {list(x.shape)}: give a matrix, [samples, columns]")
    table = matrix_table(x)
    if y is not None:
        for name, values in zip(target.names, y.reshape(len(y), -1).T, strict=True):
            table = table.append_column(name, array_column(values))
    return table


def _check_columns(source: Any, there: Sequence[str], wanted: Sequence[str], inputs: Table) -> None:
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    name = missing[0]
    others = f" (nor {listed(missing[1:], 5)})" if missing[1:] else ""
    why = ", which was learnt from" if name in inputs.names else ""
    raise DataError(f"{_named(source)} has no column {short(name)!r}{why}{others}: {nearest(name, there)}")


def _named(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "the table"
