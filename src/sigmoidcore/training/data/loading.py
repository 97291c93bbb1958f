"""`load`: a data set from a name, a file, a folder, a table or arrays, ready for training."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.batches import Batch, IndexedPart, Part, Stream
from sigmoidcore.training.data.builtin import BUILT_IN, TABLES, built_in_table, digit_samples
from sigmoidcore.training.data.columns import matrix
from sigmoidcore.training.data.dataset import Data
from sigmoidcore.training.data.errors import DataError, file_errors, listed, nearest, needed, pa, short
from sigmoidcore.training.data.files import memory
from sigmoidcore.training.data.fingerprint import Fingerprint
from sigmoidcore.training.data.preprocessing import SAMPLE, Preprocessing, SampleInputs, fitted_table
from sigmoidcore.training.data.readers import (
    ARRAYS,
    TABLE_FILES,
    TEXT,
    MemoryTable,
    TableFiles,
    as_table,
    opened,
    suffix,
    unknown_kind,
)  # fmt: skip
from sigmoidcore.training.data.samples import (
    Samples,
    array_samples,
    has_images,
    matrix_table,
    read_arrays,
    training_images,
)  # fmt: skip
from sigmoidcore.training.data.splits import Parts, random_parts, reshuffled, shuffled
from sigmoidcore.training.data.targets import TargetValues, class_target, target_values

IN_MEMORY = 2**30
"""Bytes: larger Parquet and Arrow files and folders of images are streamed."""
FEWEST = 4
"""Rows that a set must have."""
ROW_BYTES = 64
"""Bytes of a row's target and of its number in the split, while they are made."""
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

    def split(self, rows: int, target: TargetValues) -> Parts:
        """The rows of each part."""
        test = TEST_SIZE if self.test_size is None else self.test_size
        return random_parts(rows, target.classes, target.target.classes, test, self.validation_size, self.seed)


def load(
    source: Any,
    *,
    target: str | Sequence[str] | None = None,
    drop: Iterable[str] = (),
    test_size: float | None = None,
    validation_size: float = 0.0,
    seed: int = 0,
    kind: str | None = None,
    in_memory: int = IN_MEMORY,
) -> Data:
    """Load a data set: split it, turn it into numbers, and make it ready for `train`.

    Args:
        source: the name of a built-in set (digits, wine, breast-cancer, diabetes); a file (CSV, TSV, JSON lines,
            Parquet, Arrow, NPZ, NPY); a folder of images with one subfolder for each class, or of Parquet files; a
            pandas, polars or pyarrow table.
        target: the column to learn, or several columns of numbers; for an NPZ file the name of the array. Not needed
            for built-in sets, images, and arrays named x and y.
        drop: columns that are left out.
        test_size: fraction of the samples held out for testing, between 0 and 1; None: 0.2, or the split that a
            built-in set has.
        validation_size: fraction of the other samples held out for early stopping and for the choice of options.
        seed: of the split. Classes have the same share in all parts.
        kind: "class" or "number"; None: found out, see `Data.kind`.
        in_memory: bytes; larger Parquet and Arrow files and folders of images are read batch by batch.

    Raises:
        DataError: the data cannot be used; the message is one line with the cause and the remedy.
        ModuleNotFoundError: a package is not installed; the message says how to install it.

    Example:
        >>> data = load("wine")
        >>> str(data.kind), data.classes, data.shape, len(data.train), len(data.test)
        ('several classes', ('0', '1', '2'), (13,), 142, 36)
    """
    targets = (target,) if isinstance(target, str) else tuple(target or ())
    dropped = (drop,) if isinstance(drop, str) else tuple(drop)
    for name, size in (("test", test_size), ("validation", validation_size or None)):
        if size is not None and not 0 < size < 1:
            raise DataError(f"{size} is not a fraction for the {name} part: give a number between 0 and 1, such as 0.2")
    request = Request(targets, dropped, test_size, validation_size, seed, kind, in_memory)
    with file_errors(source):
        if isinstance(source, str) and source in TABLES:
            request = replace(request, targets=targets or ("target",))
            return table_data(source, MemoryTable(as_table(built_in_table(source))), request)
        if isinstance(source, str) and source == "digits":
            return _digits(request)
        if isinstance(source, str | Path):
            return _from_path(Path(source), request)
    return table_data("table", MemoryTable(as_table(source)), request)


def _digits(request: Request) -> Data:
    request.refuse_columns("digits", own_split=True)
    samples, target, parts, inputs = digit_samples()
    if request.validation_size:
        classes, count = target.target.classes, len(parts.train)
        split = random_parts(count, target.values[:count], classes, request.validation_size, 0.0, request.seed)
        parts = Parts(split.train, split.test, parts.test)
    return samples_data("digits", samples, target, parts, request.in_memory, inputs=inputs, order=reshuffled)


def _from_path(path: Path, request: Request) -> Data:
    check_path(path)
    if path.is_file() and suffix(path) in ARRAYS:
        return _from_arrays(path, request)
    found = opened(path)
    if found is not None:
        if path.is_dir():
            return table_data(path.resolve().name, found, request)
        return table_data(path.name.partition(".")[0] if suffix(path) in TEXT else path.stem, found, request)
    if not path.is_dir():
        raise unknown_kind(path)
    if not has_images(path):
        tables = sorted(p.name for p in path.iterdir() if suffix(p) in (*TABLE_FILES, *ARRAYS))
        hint = f"give a file in it: {listed(tables)}" if tables else "make one subfolder for each class, with images"
        raise DataError(f"{path} is a folder without subfolders of images, or Parquet files: {hint}")
    request.refuse_columns(path, own_split=False)
    images = training_images(path)
    target = class_target("class", images.targets["class"])
    parts = request.split(images.count, target)
    return samples_data(path.resolve().name, images, target, parts, request.in_memory)


def _from_arrays(path: Path, request: Request) -> Data:
    """An NPY file, a matrix whose columns are named 0, 1, 2, ..., or an NPZ file with inputs and targets."""
    if path.suffix.lower() == ".npz" and len(request.targets) > 1:
        raise DataError(f"{path}: give the name of one array as --target; it may have several columns")
    x, columns = read_arrays(path, next(iter(request.targets), None))
    names = tuple(columns)
    if x.ndim == 2 or not columns:
        request = replace(request, targets=names or request.targets)
        return table_data(path.stem, MemoryTable(matrix_table(path, x, columns)), request)
    if request.drop:
        raise DataError(f"{path} has no columns: leave out --drop")
    samples = array_samples(path, x, columns, x.shape[1:])
    target = target_values(names, list(columns.values()), request.kind)
    return samples_data(path.stem, samples, target, request.split(len(x), target), request.in_memory)


def check_path(path: Path) -> None:
    """Refuse a path that cannot be read."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the name {short(path, 200)} is not UTF-8, and a run could not store it: rename it") from error
    if not path.exists():
        there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        hint = nearest(path.name, [*BUILT_IN, *there])
        hint = hint if hint.startswith("did you mean") else f"built in are: {', '.join(BUILT_IN)}"
        raise DataError(f"{short(path, 200)} is neither a file nor a folder nor a built-in set: {hint}")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path} cannot be read twice, as needed: write its content into a file")


def table_data(name: str, source: MemoryTable | TableFiles, request: Request) -> Data:
    """A set from a table: in memory if it is small enough, else read batch by batch."""
    inputs = request.inputs(source.names)
    if source.rows < FEWEST:
        count = "no rows" if not source.rows else "one row" if source.rows == 1 else f"{source.rows} rows"
        raise DataError(f"{name} has {count}: give at least {FEWEST}, and better some hundreds")
    if source.rows * ROW_BYTES > memory():
        raise DataError(f"{name} has {source.rows:,} rows, whose targets do not fit into memory: give a part of them")
    streamed = isinstance(source, TableFiles) and source.rows * len(source.names) * 8 > request.in_memory
    if isinstance(source, TableFiles) and not streamed:
        source = MemoryTable(pa.concat_tables(source.pieces(source.names)))
    learnt = pa.concat_tables(source.pieces(request.targets))
    target = target_values(request.targets, [learnt[each] for each in request.targets], request.kind)
    parts = request.split(source.rows, target)
    part_of_rows = parts.of_rows()
    rows = np.sort(np.concatenate([part[:SAMPLE] for part in (parts.train, parts.validation, parts.test)]))
    fitted, notes = fitted_table(inputs, _rows_of(source, inputs, rows), rows, np.flatnonzero(part_of_rows[rows] == 0))
    fingerprint, first, found = Fingerprint(), 0, []
    for table in source.pieces([*inputs, *request.targets]):
        fingerprint.add_table(table)
        values = matrix(fitted.columns, table, first)  # a stream too is checked before the training
        found += [] if streamed else [torch.from_numpy(fitted.apply_matrix(values))]
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
