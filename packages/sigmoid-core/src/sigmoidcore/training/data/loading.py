"""`load`: a data set from a name, a file, a folder, a table or arrays, ready for training."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.builtin import (
    BUILT_IN,
    DIGIT_TESTS,
    TABLES,
    built_in_table,
    digit_samples,
    of_package,
    package_data,
)  # fmt: skip
from sigmoidcore.training.data.columns import matrix
from sigmoidcore.training.data.dataset import Batch, Data, IndexedPart, Part, Stream
from sigmoidcore.training.data.errors import DataError, file_errors, listed, meant, nearest, needed, pa
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
    check_finite,
    has_images,
    matrix_table,
    read_arrays,
    training_images,
)  # fmt: skip
from sigmoidcore.training.data.splits import Parts, random_parts
from sigmoidcore.training.data.targets import Target, class_target, learnt_target
from sigmoidcore.language import _
from unstuck.language.errors import short

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
            raise DataError("name the column to learn (--target): the names are {names}", names=listed(names))
        for given in (self.targets, self.drop):
            for name in given:
                if name not in names:
                    missing = {"name": short(name), "hint": nearest(name, names)}
                    if given is self.targets:
                        raise DataError("there is no target {name!r}: {hint}", **missing)
                    raise DataError("there is no column to drop {name!r}: {hint}", **missing)
        twice = [name for name, count in Counter(self.targets).items() if count > 1]
        if twice:
            raise DataError("target {name!r} was given twice: give each column once", name=short(twice[0]))
        both = [name for name in self.targets if name in self.drop]
        if both:
            raise DataError(
                "{name!r} is the target and cannot be left out: take it from --drop or --target", name=short(both[0])
            )
        inputs = [name for name in names if name not in {*self.targets, *self.drop}]
        if not inputs:
            raise DataError("there is no column to learn from beside the target: give data with more columns")
        return inputs

    def refuse_columns(self, name: object) -> None:
        """Refuse options that need a table."""
        if self.targets or self.drop:
            raise DataError("{name} has no columns: leave out --target and --drop", name=name)
        if self.kind not in (None, "class"):
            raise DataError("{name} has classes, not numbers: leave out the kind of the target", name=name)

    def split(self, target: Target, values: np.ndarray) -> Parts:
        """The rows of each part."""
        test = TEST_SIZE if self.test_size is None else self.test_size
        classes = values if target.kind.is_class else None
        return random_parts(len(values), classes, target.classes, test, self.validation_size, self.seed)


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
        source: the name of a built-in set (digits, wine, breast-cancer, diabetes); a file (CSV, TSV,
            Parquet, Arrow, NPZ, NPY); a folder of images with one subfolder for each class, or of Parquet files; a
            pandas, polars or pyarrow table.
        target: the column to learn, or several columns of numbers; for an NPZ file the name of the array. Not needed
            for built-in sets, images, and arrays named x and y.
        drop: columns that are left out.
        test_size: fraction of the samples held out for testing, between 0 and 1; None: 0.2, and the split of `digits`.
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
    for name, size in ((_("test"), test_size), (_("validation"), validation_size or None)):
        if size is not None and not 0 < size < 1:
            raise DataError(
                "{size} is not a fraction for the {name} part: give a number between 0 and 1, such as 0.2",
                size=size,
                name=name,
            )
    request = Request(targets, dropped, test_size, validation_size, seed, kind, in_memory)
    with file_errors(source):
        if isinstance(source, str) and source in TABLES:
            request = replace(request, targets=targets or ("target",))
            return table_data(source, MemoryTable(as_table(built_in_table(source))), request)
        if isinstance(source, str) and source == "digits":
            if test_size is None:
                request = replace(request, test_size=DIGIT_TESTS, seed=0)
            return _with_classes("digits", digit_samples(), request)
        name, found = "table", of_package(source)
        if found is not None:
            name, source = source, found
        if isinstance(source, str | Path):
            return _from_path(Path(source), request)
    return table_data(name, MemoryTable(as_table(source)), request)


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
        hint = _("make one subfolder for each class, with images")
        if tables:
            hint = _("give a file in it: {names}", names=listed(tables))
        raise DataError(
            "{path} is a folder without subfolders of images, or Parquet files: {hint}", path=path, hint=hint
        )
    return _with_classes(path.resolve().name, training_images(path), request)


def _from_arrays(path: Path, request: Request) -> Data:
    """An NPY file, a matrix whose columns are named 0, 1, 2, ..., or an NPZ file with inputs and targets."""
    if path.suffix.lower() == ".npz" and len(request.targets) > 1:
        raise DataError("{path}: give the name of one array as --target; it may have several columns", path=path)
    x, columns = read_arrays(path, next(iter(request.targets), None))
    names = tuple(columns)
    if x.ndim == 2 or not columns:
        request = replace(request, targets=names or request.targets)
        return table_data(path.stem, MemoryTable(matrix_table(path, x, columns)), request)
    if request.drop:
        raise DataError("{path} has no columns: leave out --drop", path=path)
    samples = array_samples(path, x, columns, x.shape[1:])
    return samples_data(path.stem, samples, *learnt_target(names, list(columns.values()), request.kind), request)


def check_path(path: Path) -> None:
    """Refuse a path that cannot be read."""
    with DataError.replacing(
        "the name {path} is not UTF-8, and a run could not store it: rename it", UnicodeEncodeError, path=short(path)
    ):
        str(path).encode()
    if not path.exists():
        there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        known = [*BUILT_IN, *package_data()]
        hint = meant(path.name, [*known, *there]) or _("built in are: {names}", names=", ".join(known))
        raise DataError(
            "{path} is neither a file nor a folder nor a built-in set: {hint}", path=short(path, 200), hint=hint
        )
    if not path.is_dir() and not path.is_file():
        raise DataError("{path} cannot be read twice, as needed: write its content into a file", path=path)


def table_data(name: str, source: MemoryTable | TableFiles, request: Request) -> Data:
    """A set from a table: in memory if it is small enough, else read batch by batch."""
    inputs = request.inputs(source.names)
    if source.rows < FEWEST:
        count = (
            _("{count} rows", count=source.rows) if source.rows > 1 else _("one row") if source.rows else _("no rows")
        )
        raise DataError(
            "{name} has {count}: give at least {least}, and better some hundreds", name=name, count=count, least=FEWEST
        )
    if source.rows * ROW_BYTES > memory():
        raise DataError(
            "{name} has {rows:,} rows, whose targets do not fit into memory: give a part of them",
            name=name,
            rows=source.rows,
        )
    streamed = isinstance(source, TableFiles) and source.rows * len(source.names) * 8 > request.in_memory
    if isinstance(source, TableFiles) and not streamed:
        source = MemoryTable(pa.concat_tables(source.pieces(source.names)))
    columns = pa.concat_tables(source.pieces(request.targets))
    target, learnt = learnt_target(request.targets, [columns[each] for each in request.targets], request.kind)
    parts = request.split(target, learnt)
    part_of_rows = parts.of_rows()
    rows = np.sort(np.concatenate([part[:SAMPLE] for part in (parts.train, parts.validation, parts.test)]))
    fitted, notes = fitted_table(inputs, _rows_of(source, inputs, rows), rows, np.flatnonzero(part_of_rows[rows] == 0))
    fingerprint, first, found = Fingerprint(), 0, []
    for table in source.pieces([*inputs, *request.targets]):
        fingerprint.add_table(table)
        values = matrix(fitted.columns, table, first)  # a stream too is checked before the training
        found += [] if streamed else [torch.from_numpy(fitted.apply_matrix(values))]
        first += table.num_rows
    preprocessing = Preprocessing(fitted, target.fitted(learnt[parts.train]))
    if streamed:
        notes = (*notes, _("{rows:,} rows are read from the file batch by batch", rows=source.rows))
        three: list[Part] = [Stream(source, preprocessing, part_of_rows, part) for part in range(3)]  # type: ignore[arg-type]
    else:
        x, y = torch.cat(found), preprocessing.target.tensor(learnt)
        three = _indexed(parts, lambda rows: (x[rows], y[rows]))
    return _data(name, three, preprocessing, learnt[parts.train], notes, fingerprint)


def _rows_of(source: MemoryTable | TableFiles, names: Sequence[str], rows: np.ndarray) -> Any:
    """Some rows of a table, given by their sorted numbers."""
    found, first = [], 0
    for table in source.pieces(names):
        start, end = np.searchsorted(rows, (first, first + table.num_rows))
        found.append(table.take(rows[start:end] - first))
        first += table.num_rows
    return pa.concat_tables(found)


def _with_classes(name: str, samples: Samples, request: Request) -> Data:
    """A set of samples that have one target, their class."""
    request.refuse_columns(samples.name)
    return samples_data(name, samples, *class_target("class", samples.targets["class"]), request)


def samples_data(name: str, samples: Samples, target: Target, learnt: np.ndarray, request: Request) -> Data:
    """A set from images or arrays: read once if they fit into memory, else batch by batch."""
    parts = request.split(target, learnt)
    scaler = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
    streamed = samples.count * int(np.prod(samples.shape)) * 4 > request.in_memory
    part_of_rows, fingerprint, read = parts.of_rows(), Fingerprint(), []
    for start in range(0, samples.count, samples.at_a_time):
        values = samples.take(slice(start, start + samples.at_a_time))
        check_finite(values, samples.name, start)
        fingerprint.add("inputs", values)
        train = values[part_of_rows[start : start + len(values)] == 0]
        if len(train):
            by_channel = train.reshape(len(train), samples.channels, -1).swapaxes(1, 2)
            scaler.partial_fit(by_channel.reshape(-1, samples.channels).astype(np.float64))
        read += [] if streamed else [values]
    fingerprint.add("targets", learnt)
    if not (np.isfinite(scaler.scale_).all() and scaler.var_.any()):
        raise DataError(
            "{name} has inputs that are constant, or too large to compute with: correct them", name=samples.name
        )
    fitted = SampleInputs(samples.shape, tuple(scaler.mean_.tolist()), tuple(scaler.scale_.tolist()))
    preprocessing = Preprocessing(fitted, target.fitted(learnt[parts.train]))
    y, notes = preprocessing.target.tensor(learnt), samples.notes
    if streamed:
        notes = (*notes, _("{count:,} samples are read batch by batch", count=samples.count))
        three = _indexed(parts, lambda rows: (torch.from_numpy(fitted.apply(samples.take(rows.numpy()))), y[rows]))
    else:
        x = torch.cat([torch.from_numpy(fitted.apply(values)) for values in read])
        three = _indexed(parts, lambda rows: (x[rows], y[rows]))
    return _data(name, three, preprocessing, learnt[parts.train], notes, fingerprint)


def _indexed(parts: Parts, take: Callable[[Tensor], Batch]) -> list[Part]:
    return [IndexedPart(torch.from_numpy(rows), take) for rows in (parts.train, parts.validation, parts.test)]


def _data(
    name: str, parts: Sequence[Part], preprocessing: Preprocessing, learnt: np.ndarray, notes: tuple[str, ...],
    fingerprint: Fingerprint,
) -> Data:  # fmt: skip
    train, validation, test = parts
    target = preprocessing.target
    counts = np.bincount(learnt, minlength=target.outputs).tolist() if target.kind.is_class else ()
    held_out = validation if len(validation) else None
    return Data(name, train, test, preprocessing, tuple(counts), notes, held_out, fingerprint.digests())
