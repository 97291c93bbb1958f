"""New data for a trained network: read in their order, piece by piece, and transformed as the run's data were."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.arrays import has_idx, inputs_and_targets, read_arrays, read_idx
from sigmoidcore.training.data.builtin import BUILT_IN, TABLES, built_in_table, built_in_test
from sigmoidcore.training.data.columns import MISSING, UNKNOWN, Role, matrix
from sigmoidcore.training.data.errors import DataError, listed, nearest, pa, short
from sigmoidcore.training.data.images import SUFFIXES, decoded, images_below
from sigmoidcore.training.data.preprocessing import Preprocessing, TableInputs
from sigmoidcore.training.data.readers import (
    ARRAYS,
    WINDOW,
    TableFiles,
    array_column,
    as_table,
    matrix_table,
    opened,
    suffix,
    unknown_kind,
)  # fmt: skip
from sigmoidcore.training.data.targets import Target

NUMBERS = 2**22
"""Numbers of an array that are scaled together."""
FAR = 20.0
"""Samples whose mean or deviation differs by this factor from those that were learnt from have another unit."""


@dataclass(frozen=True)
class Piece:
    """Consecutive samples of new data: the number of the first, inputs, targets if requested, and columns to keep."""

    first: int
    inputs: Tensor
    targets: Tensor | None
    kept: dict[str, Any]


class NewData:
    """New data, to be read once.

    Args:
        source: everything that `load` takes, with the target or without it; also a NumPy array or a tensor.
        preprocessing: of the run.
        targets: whether the targets are needed too.
        keep: columns of a table that accompany the predictions.

    Raises:
        DataError: it cannot be read, or lacks columns; the message is one line with the cause and the remedy.
    """

    def __init__(
        self, source: Any, preprocessing: Preprocessing, *, targets: bool = False, keep: Sequence[str] = ()
    ) -> None:
        self._source = source
        self._preprocessing = preprocessing
        self._targets = targets
        self._keep = tuple(keep)
        self._unknown: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence about unknown categories and missing values in the rows that have been read; or nothing."""
        found = [
            f"{count:,} unknown in {short(name)!r} (such as {self._examples[name]!r})"
            for name, count in self._unknown.items()
        ]
        found += [f"{count:,} missing in {short(name)!r}" for name, count in self._missing.items() if count]
        if not found:
            return ()
        return (
            f"the training data did not have these values, so their predictions are less certain: {', '.join(found)}",
        )

    def pieces(self) -> Iterator[Piece]:
        """The samples in their order.

        Raises:
            DataError: a value does not fit.
        """
        try:
            if isinstance(self._preprocessing.inputs, TableInputs):
                yield from self._table_pieces(self._preprocessing.inputs, self._preprocessing.target)
                return
            if self._keep:
                raise DataError(f"there is no column {short(self._keep[0])!r}: the data have samples and no columns")
            yield from _sample_pieces(self._source, self._preprocessing, self._targets)
        except FileNotFoundError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(
                f"{self._source} cannot be read: {error.strerror or short(error)}; give a readable file"
            ) from error

    def _table_pieces(self, inputs: TableInputs, target: Target) -> Iterator[Piece]:
        used = [column.name for column in inputs.columns]
        wanted = list(dict.fromkeys((*used, *(target.names if self._targets else ()), *self._keep)))
        first = 0
        for table in _tables(self._source, wanted, used, target):
            values = matrix(inputs.columns, table, first)
            self._count_novelties(inputs, values, table)
            x = torch.from_numpy(inputs.apply_matrix(values, first))
            y = target.encoded([table[name] for name in target.names], first) if self._targets else None
            yield Piece(first, x, y, {name: table[name] for name in self._keep})
            first += table.num_rows
        if not first:
            raise DataError(f"{_named(self._source)} has no rows: give data with some")

    def _count_novelties(self, inputs: TableInputs, values: np.ndarray, table: Any) -> None:
        """Count what the training part did not have."""
        place = 0
        for column in inputs.columns:
            found = values[:, place]
            place += len(column.parts)
            if column.role is not Role.CATEGORY:
                if column.parts[0] not in inputs.indicated:
                    self._missing[column.name] += int(np.isnan(found).sum())
                continue
            self._missing[column.name] += int((found == MISSING).sum())
            unknown = np.flatnonzero(found == UNKNOWN)
            if len(unknown):
                self._unknown[column.name] += len(unknown)
                self._examples.setdefault(column.name, short(table[column.name][int(unknown[0])].as_py(), 30))


def _named(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "the table"


# --- tables ----------------------------------------------------------------------------------------------------------


def _tables(source: Any, wanted: Sequence[str], used: Sequence[str], target: Target) -> Iterator[Any]:
    """The rows of a source as pyarrow.Table of at most `WINDOW` rows, each with the wanted columns."""
    found = _opened(source, target)
    there = found.schema.names
    missing = [name for name in wanted if name not in there]
    if missing:
        others = f" (nor {listed(missing[1:], 5)})" if missing[1:] else ""
        why = ", which was learnt from" if missing[0] in used else ""
        raise DataError(
            f"{_named(source)} has no column {short(missing[0])!r}{why}{others}: {nearest(missing[0], there)}"
        )
    if isinstance(found, TableFiles):
        yield from found.pieces(wanted)
        return
    for start in range(0, found.num_rows, WINDOW):
        yield found.slice(start, WINDOW)


def _opened(source: Any, target: Target) -> Any:
    """A source as a pyarrow.Table or `TableFiles`."""
    if isinstance(source, str) and source in TABLES:
        return as_table(built_in_table(source))
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "biufSU":
            raise DataError(
                f"an array of shape {list(source.shape)} and type {source.dtype} is not a table: give a matrix of "
                "numbers, [rows, columns], or a pandas.DataFrame"
            )
        return matrix_table(source)
    if not isinstance(source, str | Path):
        return as_table(source)
    path = Path(source)
    if path.is_file() and suffix(path) in ARRAYS:
        return _array_table(path, target)
    found = opened(path) if path.is_file() or path.is_dir() else None
    if found is None and path.is_file():
        raise unknown_kind(path)
    if found is None:
        raise DataError(f"{path} is neither a file nor a folder of Parquet files: give a table")
    return found


def _array_table(path: Path, target: Target) -> Any:
    """The inputs of an NPY or NPZ file as columns 0, 1, 2, ..., and its targets if there are any."""
    x, y = _inputs_of(path, target)
    if x.ndim != 2 or not x.size:
        raise DataError(f"{path} has inputs of shape {list(x.shape)}: give a matrix, [samples, columns]")
    table = matrix_table(x)
    if y is not None:
        for name, values in zip(target.names, y.reshape(len(y), -1).T, strict=False):
            table = table.append_column(name, array_column(values))
    return table


def _inputs_of(path: Path, target: Target) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = read_arrays(path)
    if "" in arrays:
        return arrays[""], None
    name = target.names[0] if len(target.names) == 1 else target.names[0][:-1]  # of y0, y1, ...
    x, y, _ = inputs_and_targets(path, arrays, name, required=False)
    return x, y


# --- images and arrays -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Samples:
    """Samples that are not rows of a table, not scaled; columns of targets and names of image files, if any."""

    name: str
    count: int
    take: Callable[[slice], np.ndarray]
    targets: Sequence[Any] = ()
    files: Sequence[str] = ()


def _sample_pieces(source: Any, preprocessing: Preprocessing, targets: bool) -> Iterator[Piece]:
    samples, target = _samples(source, preprocessing), preprocessing.target
    if targets and not samples.targets:
        raise DataError(f"{samples.name} has no targets (array {target.names[0]!r}): give samples with their targets")
    step = max(1, NUMBERS // math.prod(preprocessing.inputs.shape))
    for start in range(0, samples.count, step):
        chosen = slice(start, min(start + step, samples.count))
        inputs = _checked(preprocessing.transform(samples.take(chosen)), samples.name, start)
        encoded = target.encoded([column[chosen] for column in samples.targets], start) if targets else None
        kept = {"file": pa.chunked_array([samples.files[chosen]])} if samples.files else {}
        yield Piece(start, inputs, encoded, kept)


def _samples(source: Any, preprocessing: Preprocessing) -> _Samples:
    """The samples of an array, a file, an image, a folder of images or idx files, or a built-in set (its test part)."""
    shape = preprocessing.inputs.shape
    if isinstance(source, np.ndarray | Tensor):
        array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
        return _array_samples("the array", array, None, shape)
    if not isinstance(source, str | Path):
        raise DataError(f"a {type(source).__name__} has no samples: give a NumPy array, a tensor, a file or a folder")
    if source in TABLES:
        raise DataError(f"{source} is a table, and the run has learnt from samples: give samples")
    if source in BUILT_IN:
        return _array_samples(str(source), *built_in_test(str(source)), shape)
    path = Path(source)
    if path.is_dir() and has_idx(path):
        x, y = read_idx(path, "t10k")
        return _array_samples(str(path), x / 255.0, y, shape)
    if path.is_dir() or suffix(path) in SUFFIXES:
        return _image_samples(path, shape)
    if path.is_file() and suffix(path) in ARRAYS:
        return _array_samples(str(path), *_inputs_of(path, preprocessing.target), shape)
    what = "not an array or an image" if path.exists() else "neither a file nor a folder"
    raise DataError(f"{path} is {what}: give samples of shape {list(shape)}, as an .npy or .npz file or as images")


def _array_samples(name: str, x: np.ndarray, y: np.ndarray | None, shape: tuple[int, ...]) -> _Samples:
    """Samples of the shape that was learnt from; they may be flat, and grey images may lack the channel."""
    grey = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if x.shape[1:] not in (shape, grey, (math.prod(shape),)) or x.dtype.kind not in "biuf":
        found = f"{name} has samples of shape {list(x.shape[1:])} and type {x.dtype}"
        raise DataError(f"{found}: give numbers of the shape that was learnt from, {list(shape)}")
    if not len(x):
        raise DataError(f"{name} has no samples: give an array with some")
    columns = [] if y is None else [array_column(values) for values in y.reshape(len(y), -1).T]
    return _Samples(name, len(x), lambda chosen: x[chosen].reshape(-1, *shape), columns)


def _image_samples(path: Path, shape: tuple[int, ...]) -> _Samples:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"{path} has images, and the run has learnt from samples of shape {list(shape)}: give these")
    files = images_below(path)
    if not files:
        raise DataError(f"{path} has no images in it: give a folder with some")
    base = path if path.is_dir() else path.parent
    classes = pa.chunked_array([[file.parent.name for file in files]])
    names = [str(file.relative_to(base)) for file in files]
    return _Samples(str(path), len(files), lambda chosen: decoded(files[chosen], shape), [classes], names)


def _checked(inputs: Tensor, name: str, first: int) -> Tensor:
    """Refuse samples that are not finite, or in another unit."""
    finite = torch.isfinite(inputs).flatten(1).all(1)
    if not bool(finite.all()):
        row = first + int(finite.logical_not().int().argmax()) + 1
        raise DataError(f"{name} has a value that is not finite in sample {row}: correct it, or remove the sample")
    mean, deviation = float(inputs.mean()), float(inputs.std(correction=0))
    if abs(mean) > FAR or deviation > FAR or (deviation < 1 / FAR and len(inputs) >= 10):
        found = f"{name} has samples with mean {mean:.3g} and deviation {deviation:.2g} after scaling, not 0 and 1"
        raise DataError(f"{found}: give them in the same unit as the training data (0 to 1, or 0 to 255?)")
    return inputs
