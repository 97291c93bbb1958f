"""Predictions of a run's network for new data: a table for each piece of the data, written into a file."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import PARQUET, DataError, NewData, Preprocessing, needed, short, suffix
from sigmoidcore.training.data.columns import is_text
from sigmoidcore.training.data.errors import pa, pc
from sigmoidcore.training.networks import Network
from sigmoidcore.training.runs.folder import run_of
from unstuck.files import complete_file
from unstuck.language.errors import check_file

NUMBERS, MOST = 2**20, 4096
"""Most numbers, and most samples, in a batch: thousands of rows of a table, or a few large images."""


def batch_size_for(shape: Sequence[int]) -> int:
    """Batch size for samples of a shape."""
    return max(1, min(MOST, NUMBERS // max(1, prod(shape))))


def outputs_of(network: Network, inputs: Tensor, first: int = 0) -> Tensor:
    """A network's outputs, [samples, outputs], without gradients; the model's mode is preserved."""
    model, mode = network.model, network.model.training
    model.eval()
    try:
        with torch.no_grad():
            batches = torch.split(inputs, batch_size_for(inputs.shape[1:]))
            outputs = torch.cat([model(network.arranged(batch)) for batch in batches])
    except RuntimeError as error:
        raise DataError(
            "the network does not accept these data ({error}): do they belong to another run?", error=short(error, 120)
        ) from error
    finally:
        model.train(mode)
    finite = torch.isfinite(outputs).all(1)
    if not bool(finite.all()):
        row = first + int(finite.logical_not().int().argmax()) + 1
        raise DataError("the network's output is not finite in row {row}: did the run fail? train it again", row=row)
    return outputs


def names_of(preprocessing: Preprocessing) -> list[str]:
    """Columns of predictions: `prediction` and `probability_CLASS`, or `prediction_TARGET` for several numbers."""
    target = preprocessing.target
    if target.kind.is_class:
        return ["prediction", *(f"probability_{name}" for name in target.classes)]
    return ["prediction"] if len(target.names) == 1 else [f"prediction_{name}" for name in target.names]


def probabilities(outputs: Tensor) -> np.ndarray:
    """Probabilities of the classes, float64, [samples, classes]."""
    return np.asarray(outputs.double().softmax(1).cpu().numpy())


def predictions(network: Network, preprocessing: Preprocessing, data: NewData) -> Iterator[Any]:
    """Predictions piece by piece, in the order of the data: the kept columns, then those of `names_of`.

    Classes are text, probabilities float32, numbers float64 in the unit of the target.
    """
    names = names_of(preprocessing)
    for piece in data.pieces():
        columns = [*piece.kept, *names]
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise DataError(
                "column {name!r} cannot be kept: the predictions have this name; rename it", name=short(twice)
            )
        outputs = outputs_of(network, piece.inputs, piece.first)
        values = preprocessing.predictions(outputs)
        if preprocessing.target.kind.is_class:
            found = [pa.array(values.tolist(), pa.string()), *probabilities(outputs).astype(np.float32).T]
        else:
            found = [np.ascontiguousarray(column) for column in values.T]
        yield pa.table(dict(piece.kept) | dict(zip(names, found, strict=True)))


KINDS = (*PARQUET, ".csv")
"""Known endings."""
_FORMULA, _NUMBER = "[=+\\-@\t\r\n＝＋－＠]", r"^-[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
"""How a text begins that a spreadsheet runs as a formula, and one that is a number."""


def same_file(one: Any, other: Any) -> bool:
    """Whether two names belong to the same file; no for tables in memory."""
    try:
        return os.path.samefile(one, other)
    except (OSError, TypeError, ValueError):
        return False


def check_output(path: Path, overwrite: bool, source: object = None) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    check_file(path)
    if same_file(path, source):
        raise DataError("{path} is the input: give another name", path=path)
    if (run := run_of(path)) is not None:
        raise DataError("{path} is a file of the run {run}: give another name", path=path, run=run)
    if path.exists() and not overwrite:
        raise DataError("{path} exists: give another name, or --overwrite to replace it", path=path)


def check_table(path: Path) -> None:
    """Refuse a file name with an unknown ending."""
    if suffix(path) not in KINDS:
        raise DataError(
            "{path} has an unknown ending: give a name that ends with one of {endings}",
            path=path,
            endings=", ".join(KINDS),
        )


def write_tables(path: Path, tables: Iterable[Any], progress: Callable[[int], object] | None = None) -> int:
    """Write tables with the same columns, one below the other, one in memory at a time; returns the number of rows.

    `check_table` accepts the path, and `progress` is called with the number of rows so far.
    """
    rows, pieces = 0, iter(tables)
    as_text = suffix(path) not in PARQUET
    try:
        first = next(pieces)
        with complete_file(path) as file, _writer(as_text, file, first.schema) as writer:
            for table in itertools.chain([first], pieces):
                writer.write_table(disarmed(table) if as_text else table)
                rows += table.num_rows
                if progress is not None:
                    progress(rows)
    except pa.ArrowException as error:
        raise DataError(
            "cannot write {path}, this format does not support all of these columns ({error}): "
            "keep others, or give a name with another ending",
            path=path,
            error=short(error, 120),
        ) from error
    return rows


def disarmed(table: Any) -> Any:
    """A table whose texts and names a spreadsheet does not run as formulas, as OWASP advises (CSV injection).

    They get an apostrophe in front; negative numbers stay.

    Example:
        >>> disarmed(pa.table({"@a": ["=1+1", "-1", "b"], "n": [-1, 2, 3]})).to_pydict()
        {"'@a": ["'=1+1", '-1', 'b'], 'n': [-1, 2, 3]}
    """
    names = _disarmed(pa.array(table.column_names, pa.string())).to_pylist()
    return pa.table([_disarmed(column) for column in table.columns], names=names)


def _disarmed(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not is_text(column.type):
        return column
    changed = pc.replace_substring_regex(column, f"^({_FORMULA})", r"'\1")
    return pc.if_else(pc.match_substring_regex(column, _NUMBER), column, changed)


def _writer(as_text: bool, file: BinaryIO, schema: Any) -> Any:
    if as_text:
        return needed("pyarrow.csv", "pyarrow").CSVWriter(file, disarmed(schema.empty_table()).schema)
    return needed("pyarrow.parquet", "pyarrow").ParquetWriter(file, schema)
