"""Data sets from tables and from samples: target, split, preprocessing and batches."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.batches import Batch, IndexedPart, Part, Stream
from sigmoidcore.training.data.dataset import Data
from sigmoidcore.training.data.errors import DataError, listed, nearest, needed, pa, short
from sigmoidcore.training.data.fingerprint import Fingerprint
from sigmoidcore.training.data.preprocessing import SAMPLE, Preprocessing, SampleInputs, fitted_table
from sigmoidcore.training.data.readers import MemoryTable, TableFiles
from sigmoidcore.training.data.samples import Samples
from sigmoidcore.training.data.splits import Parts, random_parts, shuffled
from sigmoidcore.training.data.targets import TargetValues, target_values

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

    def split(self, name: object, rows: int, target: TargetValues) -> Parts:
        """The rows of each part."""
        check_rows(name, rows)
        test = TEST_SIZE if self.test_size is None else self.test_size
        return random_parts(rows, target.classes, target.target.classes, test, self.validation_size, self.seed)


def check_rows(name: object, rows: int) -> None:
    """Refuse a set that is too small."""
    if rows < FEWEST:
        count = "no rows" if not rows else "one row" if rows == 1 else f"{rows} rows"
        raise DataError(f"{name} has {count}: give at least {FEWEST}, and better some hundreds")


def table_data(name: str, source: MemoryTable | TableFiles, request: Request) -> Data:
    """A set from a table: in memory if it is small enough, else read batch by batch."""
    inputs = request.inputs(source.names)
    check_rows(name, source.rows)
    streamed = isinstance(source, TableFiles) and source.rows * len(source.names) * 8 > request.in_memory
    if isinstance(source, TableFiles) and not streamed:
        source = MemoryTable(pa.concat_tables(source.pieces(source.names)))
    learnt = pa.concat_tables(source.pieces(request.targets))
    target = target_values(request.targets, [learnt[each] for each in request.targets], request.kind)
    parts = request.split(name, source.rows, target)
    part_of_rows = parts.of_rows()
    rows = np.sort(np.concatenate([part[:SAMPLE] for part in (parts.train, parts.validation, parts.test)]))
    fitted, notes = fitted_table(inputs, _rows_of(source, inputs, rows), rows, np.flatnonzero(part_of_rows[rows] == 0))
    fingerprint, first, found = Fingerprint(), 0, []
    for table in source.pieces([*inputs, *request.targets]):
        fingerprint.add_table(table)
        inputs_of_piece = torch.from_numpy(fitted.apply(table, first))  # a stream is checked before the training
        found += [] if streamed else [inputs_of_piece]
        first += table.num_rows
    preprocessing = Preprocessing(fitted, target.fitted(parts.train))
    if streamed:
        notes = (*notes, f"{source.rows:,} rows are read from the file batch by batch")
        three: list[Part] = [Stream(source, preprocessing, part_of_rows, part) for part in range(3)]  # type: ignore[arg-type]
    else:
        x, y = torch.cat(found), target.encoded(preprocessing.target)
        three = _indexed(parts, lambda rows: (x[rows], y[rows]))
    return _data(name, three, preprocessing, target.class_counts(parts.train), notes, fingerprint)


def _rows_of(source: MemoryTable | TableFiles, names: Sequence[str], rows: np.ndarray) -> Any:
    """Some rows of a table, given by their sorted numbers."""
    found, first = [], 0
    for table in source.pieces(names):
        start, end = np.searchsorted(rows, (first, first + table.num_rows))
        found.append(table.take(rows[start:end] - first))
        first += table.num_rows
    return pa.concat_tables(found)


def samples_data(
    name: str, samples: Samples, target: TargetValues, parts: Parts, in_memory: int, *,
    inputs: SampleInputs | None = None, order: Callable[[int, int, int], Tensor] = shuffled,
) -> Data:  # fmt: skip
    """A set from images or arrays: read once if they fit into memory, else batch by batch.

    `inputs` scales them; None: it is fitted on the training part.
    """
    scaler = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
    streamed = samples.count * int(np.prod(samples.shape)) * 4 > in_memory
    part_of_rows, fingerprint, read = parts.of_rows(), Fingerprint(), []
    for start in range(0, samples.count, samples.at_a_time):
        values = samples.take(slice(start, start + samples.at_a_time))
        finite = np.isfinite(values.reshape(len(values), -1)).all(1)
        if not finite.all():
            row = start + int(finite.argmin()) + 1
            raise DataError(
                f"{samples.name} has a value that is not finite in sample {row}: correct it, or remove the sample"
            )
        fingerprint.add("inputs", values)
        train = values[part_of_rows[start : start + len(values)] == 0]
        if inputs is None and len(train):
            by_channel = train.reshape(len(train), samples.channels, -1).swapaxes(1, 2)
            scaler.partial_fit(by_channel.reshape(-1, samples.channels).astype(np.float64))
        read += [] if streamed else [values]
    fingerprint.add("targets", target.values)
    if inputs is None:
        if not (np.isfinite(scaler.scale_).all() and scaler.var_.any()):
            raise DataError(f"{samples.name} has inputs that are constant, or too large to compute with: correct them")
        inputs = SampleInputs(samples.shape, tuple(scaler.mean_.tolist()), tuple(scaler.scale_.tolist()))
    fitted, preprocessing = inputs, Preprocessing(inputs, target.fitted(parts.train))
    y, notes = target.encoded(preprocessing.target), samples.notes
    if streamed:
        notes = (*notes, f"{samples.count:,} samples are read batch by batch")
        three = _indexed(parts, lambda rows: (torch.from_numpy(fitted.apply(samples.take(rows.numpy()))), y[rows]))
    else:
        x = torch.cat([torch.from_numpy(fitted.apply(values)) for values in read])
        three = _indexed(parts, lambda rows: (x[rows], y[rows]), order)
    return _data(name, three, preprocessing, target.class_counts(parts.train), notes, fingerprint)


def _indexed(
    parts: Parts, take: Callable[[Tensor], Batch], order: Callable[[int, int, int], Tensor] = shuffled
) -> list[Part]:
    return [IndexedPart(torch.from_numpy(rows), take, order) for rows in (parts.train, parts.validation, parts.test)]


def _data(
    name: str, parts: Sequence[Part], preprocessing: Preprocessing, counts: tuple[int, ...], notes: tuple[str, ...],
    fingerprint: Fingerprint,
) -> Data:  # fmt: skip
    train, validation, test = parts
    return Data(
        name, train, test, preprocessing, counts, notes, validation if len(validation) else None, fingerprint.digests()
    )
