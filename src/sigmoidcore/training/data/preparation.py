"""Data sets from tables, streams, arrays and images: target, split, preprocessing and batches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigmoidcore.training.data.arrays import inputs_and_targets, read_arrays
from sigmoidcore.training.data.batches import Batch, IndexedPart, Stream, in_memory
from sigmoidcore.training.data.columns import check_finite, described, typed_column
from sigmoidcore.training.data.dataset import Data
from sigmoidcore.training.data.errors import DataError, listed, nearest, pa, short
from sigmoidcore.training.data.fingerprint import Fingerprint
from sigmoidcore.training.data.images import at_a_time, decoded, find_images, fitted_images
from sigmoidcore.training.data.preprocessing import SAMPLE, Preprocessing, SampleInputs, fitted_table
from sigmoidcore.training.data.readers import TableFiles, array_column, matrix_table
from sigmoidcore.training.data.splits import HashedSplit, Parts, random_parts, uniform
from sigmoidcore.training.data.targets import Kind, TargetValues, ordered_classes, target_values

FEWEST = 4
"""Rows that a set must have."""
TEST_SIZE = 0.2
"""Default fraction of the samples for the test."""


@dataclass(frozen=True)
class Request:
    """What a user asks for, beside the source of the data; see `load`."""

    targets: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    test_size: float | None = None
    validation_size: float = 0.0
    seed: int = 0
    kind: str | None = None
    in_memory: int = 2**30

    @property
    def test(self) -> float:
        """Fraction of the samples for the test."""
        return TEST_SIZE if self.test_size is None else self.test_size

    def inputs(self, names: Sequence[str]) -> list[str]:
        """The names of the input columns of a table."""
        if not self.targets:
            raise DataError(f"name the column to learn (--target): there are: {listed(names)}")
        for role, given in (("target", self.targets), ("column to drop", self.drop)):
            for name in given:
                if name not in names:
                    raise DataError(f"there is no {role} {short(name)!r}: {nearest(name, names)}")
        twice = [name for name, count in Counter(self.targets).items() if count > 1]
        if twice:
            raise DataError(f"target {short(twice[0])!r} was given twice: give each column once")
        both = [name for name in self.targets if name in self.drop]
        if both:
            raise DataError(f"{short(both[0])!r} is the target and cannot be left out: take it from --drop or --target")
        inputs = [name for name in names if name not in {*self.targets, *self.drop}]
        if not inputs:
            raise DataError("there is no column to learn from beside the target: give data with more columns")
        return inputs

    def refuse_columns(self, name: object, *, own_split: bool) -> None:
        """Refuse options that need a table."""
        if self.targets or self.drop:
            raise DataError(f"{name} has no columns: leave out --target and --drop")
        if self.kind not in (None, "class"):
            raise DataError(f"{name} has classes, not numbers: leave out the kind of the target")
        if own_split and self.test_size is not None:
            raise DataError(f"{name} has a training part and a test part already: leave out --test-size")

    def split(self, target: TargetValues) -> Parts:
        """The rows of each part."""
        labels = target.values if target.kind.is_class else None
        return random_parts(len(target.values), target.classes, labels, self.test, self.validation_size, self.seed)


def check_rows(name: object, rows: int) -> None:
    """Refuse a set that is too small."""
    if rows < FEWEST:
        count = "no rows" if not rows else "one row" if rows == 1 else f"{rows} rows"
        raise DataError(f"{name} has {count}: give at least {FEWEST}, and better some hundreds")


def table_data(name: str, table: Any, request: Request, *, text: bool) -> Data:
    """A set from a pyarrow.Table; `text`: it comes from a text file, so that numbers and dates are text."""
    inputs = request.inputs(table.column_names)
    check_rows(name, table.num_rows)
    target = target_values(request.targets, [table[each] for each in request.targets], request.kind, text)
    empty = [each for each in inputs if table[each].null_count == table.num_rows]
    found = [described(each, table[each], text) for each in inputs if each not in empty]
    columns = [column for column, _ in found]
    values = {column.name: converted for column, converted in found}
    parts = request.split(target)
    rows = pa.table(values)
    check_finite(columns, rows)
    fitted, notes = fitted_table(columns, rows.take(parts.train[:SAMPLE]))
    fingerprint = Fingerprint()
    fingerprint.add_table(table.select([*inputs, *request.targets]))
    if empty:
        notes = (f"left out, because without values: {listed(empty)}", *notes)
    return _in_memory(name, fitted.apply(rows), fitted, target, parts, notes, fingerprint)


def _in_memory(
    name: str, x: np.ndarray, inputs: Any, target: TargetValues, parts: Parts, notes: tuple[str, ...],
    fingerprint: Fingerprint,
) -> Data:  # fmt: skip
    """A set of inputs that are numbers already, [samples, ...]."""
    preprocessing = Preprocessing(inputs, target.fitted(parts.train))
    train, validation, test = (
        in_memory(torch.from_numpy(x[rows]), target.encoded(preprocessing.target, rows))
        for rows in (parts.train, parts.validation, parts.test)
    )
    counts = target.class_counts(parts.train)
    return Data.of(name, (train, validation, test), preprocessing, counts, notes, fingerprint.digests())


def stream_data(name: str, files: TableFiles, request: Request) -> Data:
    """A set from Parquet or Arrow files: in memory if they are small enough, else read batch by batch."""
    if files.rows * len(files.schema.names) * 8 <= request.in_memory:
        return table_data(name, files.table(), request, text=False)
    inputs = request.inputs(files.schema.names)
    check_rows(name, files.rows)
    columns = [typed_column(each, files.schema.field(each).type) for each in inputs]
    learnt = pa.concat_tables(list(files.pieces(request.targets)))
    target = target_values(request.targets, [learnt[each] for each in request.targets], request.kind, text=False)
    split = HashedSplit(request.test, request.validation_size, request.seed)
    train = np.flatnonzero(split.part(np.arange(files.rows)) == 0)
    fingerprint, samples, first = Fingerprint(), [], 0
    for table in files.pieces([*inputs, *request.targets]):
        numbers = np.arange(first, first + table.num_rows)
        sampled = uniform(numbers, request.seed + 1) < SAMPLE / files.rows
        check_finite(columns, table, first)
        samples.append(table.select(inputs).filter((split.part(numbers) == 0) & sampled))
        fingerprint.add_table(table)
        first += table.num_rows
    fitted, notes = fitted_table(columns, pa.concat_tables(samples))
    preprocessing = Preprocessing(fitted, target.fitted(train))
    parts = tuple(Stream(files, preprocessing, split, part) for part in range(3))
    if not len(parts[0]) or not len(parts[2]):
        raise DataError(f"{name} has {files.rows:,} rows, too few to split: give another --test-size, or more")
    notes = (*notes, f"{files.rows:,} rows are read from the file batch by batch")
    counts = target.class_counts(train)
    return Data.of(name, parts, preprocessing, counts, notes, fingerprint.digests())  # type: ignore[arg-type]


def array_data(path: Path, request: Request) -> Data:
    """A set from an NPY file, a matrix whose columns are named 0, 1, 2, ..., or an NPZ file with inputs and targets."""
    arrays = read_arrays(path)
    if "" in arrays:
        matrix = arrays[""]
        if matrix.ndim != 2 or not matrix.size:
            raise DataError(f"{path} has an array of shape {list(matrix.shape)}: give a matrix, [samples, columns]")
        return table_data(path.stem, matrix_table(matrix), request, text=False)
    if len(request.targets) > 1:
        raise DataError(f"{path}: give the name of one array as --target; it may have several columns")
    x, y, name = inputs_and_targets(path, arrays, request.targets[0] if request.targets else None)
    assert y is not None
    columns = [array_column(values) for values in y.reshape(len(y), -1).T]
    targets = (name,) if len(columns) == 1 else tuple(f"{name}{number}" for number in range(len(columns)))
    if x.ndim == 2:
        table = matrix_table(x)
        for each, values in zip(targets, columns, strict=True):
            table = table.append_column(each, values)
        return table_data(path.stem, table, replace(request, targets=targets), text=False)
    if request.drop:
        raise DataError(f"{path} has no columns: leave out --drop")
    target = target_values(targets, columns, request.kind, text=False)
    parts = request.split(target)
    inputs = _fitted_samples(path, x, parts.train)
    fingerprint = Fingerprint()
    fingerprint.add("inputs", x)
    fingerprint.add(name, target.values)
    return _in_memory(path.stem, inputs.apply(x), inputs, target, parts, (), fingerprint)


def _fitted_samples(path: Path, x: np.ndarray, train: np.ndarray) -> SampleInputs:
    """The scale of samples that are not rows of a table: sequences, images, volumes."""
    check_rows(path, len(x))
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path} has inputs of type {x.dtype}: give an array of numbers")
    finite = np.isfinite(x.reshape(len(x), -1)).all(1)
    if not finite.all():
        row = int((~finite).argmax()) + 1
        raise DataError(f"{path} has a value that is not finite in sample {row}: correct it, or remove the sample")
    with np.errstate(all="ignore"):
        mean, scale = float(x[train].mean(dtype=np.float64)), float(x[train].std(dtype=np.float64))
    if not (np.isfinite([mean, scale]).all() and scale > 0):
        raise DataError(f"{path} has inputs that are constant, or too large to compute with: correct them")
    return SampleInputs(x.shape[1:], (mean,), (scale,))


def image_data(path: Path, request: Request) -> Data:
    """A set from a folder of images: decoded once if they fit into memory, else batch by batch."""
    found = find_images(path)
    check_rows(path, len(found.paths))
    ordered_classes("class", dict(zip(found.classes, np.bincount(found.labels).tolist(), strict=True)))
    kind = Kind.TWO_CLASSES if len(found.classes) == 2 else Kind.CLASSES
    target = TargetValues(("class",), kind, found.classes, found.labels)
    parts = request.split(target)
    inputs = fitted_images([found.paths[row] for row in parts.train], found.shape)
    fingerprint = Fingerprint()
    for file, label in zip(found.paths, found.labels, strict=True):
        fingerprint.add(found.classes[label], file.name.encode() + b"\0" + file.read_bytes())

    def part(rows: np.ndarray) -> IndexedPart:
        def take(places: torch.Tensor) -> Batch:
            chosen = rows[places.numpy()]
            images = decoded([found.paths[row] for row in chosen], found.shape)
            return torch.from_numpy(inputs.apply(images)), torch.from_numpy(found.labels[chosen])

        return IndexedPart(len(rows), take)

    three = tuple(part(rows) for rows in (parts.train, parts.validation, parts.test))
    notes = (*found.notes, f"{len(found.paths):,} images are read batch by batch")
    if len(found.paths) * int(np.prod(found.shape)) * 4 <= request.in_memory:
        notes = found.notes
        three = tuple(_decoded_once(each, found.shape) for each in three)
    preprocessing = Preprocessing(inputs, target.fitted(parts.train))
    counts = target.class_counts(parts.train)
    name = path.resolve().name
    return Data.of(name, three, preprocessing, counts, notes, fingerprint.digests())  # type: ignore[arg-type]


def _decoded_once(part: IndexedPart, shape: tuple[int, ...]) -> IndexedPart:
    """A part in memory."""
    if not len(part):
        return part
    batches = list(part.in_order(at_a_time(shape)))
    return in_memory(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
