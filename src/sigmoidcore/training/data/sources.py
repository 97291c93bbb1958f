"""Data sets from tables, streamed Parquet files, arrays and images that have been read."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigmoidcore.training.data import images
from sigmoidcore.training.data.arrays import inputs_and_targets, read_arrays
from sigmoidcore.training.data.columns import column, of_type
from sigmoidcore.training.data.dataset import Data
from sigmoidcore.training.data.error import DataError, listed, needed
from sigmoidcore.training.data.fitting import Fitting
from sigmoidcore.training.data.parquet import Files, Stream, in_test
from sigmoidcore.training.data.parts import InMemory
from sigmoidcore.training.data.preprocessing import Pixels, Preprocessing, picked
from sigmoidcore.training.data.request import Known, Wanted, check_rows, known
from sigmoidcore.training.data.tables import array_column, matrix_table
from sigmoidcore.training.data.target import Target, classes_of
from sigmoidcore.training.data.task import Kind


def of_table(name: str, table: Any, wanted: Wanted, *, written: bool) -> Data:
    """A set from a pyarrow.Table; `written`: it was text, so that numbers and dates in it still are."""
    inputs = wanted.inputs(table.column_names)
    check_rows(name, table.num_rows)
    target = known(wanted, list(picked(table, wanted.targets).values()), written=written)
    described = {each: column(each, values, written) for each, values in picked(table, inputs).items()}
    columns = [found[0] for found in described.values() if found is not None]
    there = {each: found[1] for each, found in described.items() if found is not None}
    empty = [each for each, found in described.items() if found is None]
    train, test = target.parts(wanted)
    fitting = Fitting(columns)
    fitting.see(there, train)
    fitted, notes = fitting.table()
    preprocessing = Preprocessing(fitted, target.fitted(train))
    x = fitted.apply(there)
    parts = [InMemory(torch.from_numpy(x[rows]), _encoded(preprocessing.target, table, rows)) for rows in (train, test)]
    if empty:
        notes = (f"left out, for they have no values: {listed(empty)}", *notes)
    return _data(name, parts[0], parts[1], preprocessing, target.class_counts(train), notes)


def of_parquet(name: str, files: Files, wanted: Wanted) -> Data:
    """A set from Parquet files: in memory, or read batch by batch where that would take too much of it."""
    if files.rows * len(files.schema.names) * 8 <= wanted.in_memory:
        return of_table(name, files.table(), wanted, written=False)
    inputs = wanted.inputs(files.schema.names)
    check_rows(name, files.rows)
    columns = [of_type(each, files.schema.field(each).type) for each in inputs]
    pieces = [piece for _, piece in files.pieces(wanted.targets)]
    values = needed("pyarrow", "pyarrow").concat_tables(pieces)
    target = known(wanted, [values.column(each) for each in wanted.targets], written=False)
    train_rows = np.flatnonzero(~in_test(np.arange(files.rows), wanted.seed, wanted.share))
    fitting = Fitting(columns)
    for rows, piece in files.pieces(inputs):
        chosen = np.flatnonzero(~in_test(rows, wanted.seed, wanted.share))
        fitting.see(picked(piece, inputs), chosen, int(rows[0]))
    fitted, notes = fitting.table()
    preprocessing = Preprocessing(fitted, target.fitted(train_rows))
    train, test = (Stream(files, preprocessing, wanted.seed, wanted.share, part) for part in (False, True))
    if not len(train) or not len(test):
        raise DataError(
            f"{name} has {files.rows:,} rows, of which none is in one of the parts: give another --test-size, or more "
            "rows"
        )
    notes = (*notes, f"{files.rows:,} rows are read from the file batch by batch")
    return _data(name, train, test, preprocessing, target.class_counts(train_rows), notes)


def of_arrays(path: Path, wanted: Wanted) -> Data:
    """A set from an NPY file, a matrix whose columns are named 0, 1, 2, ..., or an NPZ file with inputs and targets."""
    arrays = read_arrays(path)
    if "" in arrays:
        matrix = arrays[""]
        if matrix.ndim != 2 or not matrix.size:
            raise DataError(f"{path} has an array of shape {list(matrix.shape)}: give a matrix, [samples, columns]")
        return of_table(path.stem, matrix_table(matrix), wanted, written=False)
    if len(wanted.targets) > 1:
        raise DataError(f"{path}: give the name of one array as --target; it may have several columns")
    x, y, name = inputs_and_targets(path, arrays, wanted.targets[0] if wanted.targets else None)
    many = [array_column(y)] if y.ndim == 1 else [array_column(values) for values in y.T]
    targets = (name,) if len(many) == 1 else tuple(f"{name}{n}" for n in range(len(many)))
    wanted = Wanted(targets, wanted.drop, wanted.test_size, wanted.seed, wanted.kind, wanted.in_memory)
    if x.ndim != 2:
        return _of_samples(path, x, many, wanted)
    table = matrix_table(x)
    for each, values in zip(targets, many, strict=True):
        table = table.append_column(each, values)
    return of_table(path.stem, table, wanted, written=False)


def _of_samples(path: Path, x: np.ndarray, columns: list[Any], wanted: Wanted) -> Data:
    """A set of samples that are no rows of a table: sequences, images, volumes."""
    if wanted.drop:
        raise DataError(f"{path} has no columns: leave --drop away")
    check_rows(path, len(x))
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path} has inputs of type {x.dtype}: give an array of numbers")
    finite = np.isfinite(x.reshape(len(x), -1)).all(1)
    if not finite.all():
        raise DataError(
            f"{path} has a value that is not finite in sample {int((~finite).argmax()) + 1}: mend it, or remove the "
            "sample"
        )
    target = known(wanted, columns, written=False)
    train, test = target.parts(wanted)
    with np.errstate(all="ignore"):  # looked at below
        chosen = x[train].astype(np.float64)
        mean, scale = float(chosen.mean()), float(chosen.std())
    if not (np.isfinite([mean, scale]).all() and scale > 0):
        raise DataError(f"{path} has inputs that are all the same, or too large to compute with: mend them")
    pixels = Pixels(x.shape[1:], (mean,), (scale,))
    preprocessing = Preprocessing(pixels, target.fitted(train))
    parts = []
    for rows in (train, test):
        encoded = preprocessing.target.encoded([values.take(rows) for values in columns])
        parts.append(InMemory(torch.from_numpy(pixels.apply(x[rows])), encoded))
    return _data(path.stem, parts[0], parts[1], preprocessing, target.class_counts(train), ())


def of_images(path: Path, wanted: Wanted) -> Data:
    """A set from a folder of images: in memory, or decoded batch by batch where that would take too much of it."""
    found = images.find(path)
    check_rows(path, len(found.paths))
    classes_of("class", dict(zip(found.classes, np.bincount(found.labels).tolist(), strict=True)))
    kind = Kind.TWO_CLASSES if len(found.classes) == 2 else Kind.CLASSES
    target = Known(("class",), kind, found.classes, found.labels)
    rows = target.parts(wanted)
    paths = [tuple(found.paths[row] for row in part) for part in rows]
    pixels = images.fitted(paths[0], found.shape)
    parts = [images.Images(files, found.labels[part], pixels) for files, part in zip(paths, rows, strict=True)]
    preprocessing = Preprocessing(pixels, Target(("class",), kind, found.classes))
    counts = target.class_counts(rows[0])
    name = path.resolve().name
    if len(found.paths) * int(np.prod(found.shape)) * 4 <= wanted.in_memory:
        return _data(name, images.kept(parts[0]), images.kept(parts[1]), preprocessing, counts, found.notes)
    notes = (*found.notes, f"{len(found.paths):,} images are read batch by batch")
    return _data(name, parts[0], parts[1], preprocessing, counts, notes)


def _encoded(target: Target, table: Any, rows: np.ndarray) -> torch.Tensor:
    return target.encoded([table.column(name).take(rows) for name in target.names])


def _data(
    name: str, train: Any, test: Any, preprocessing: Preprocessing, counts: tuple[int, ...], notes: tuple[str, ...]
) -> Data:
    inputs, target = preprocessing.inputs, preprocessing.target
    return Data(
        name, train, test, target.kind, target.names, target.classes, inputs.features, inputs.shape, preprocessing,
        counts, notes,
    )  # fmt: skip
