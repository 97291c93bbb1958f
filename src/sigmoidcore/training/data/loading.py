"""`load`: a data set from a name, a file, a folder, a table or arrays, ready for training."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sigmoidcore.training.data.builtin import BUILT_IN, TABLES, built_in, built_in_table
from sigmoidcore.training.data.dataset import Data
from sigmoidcore.training.data.errors import DataError, file_errors, listed, nearest, short
from sigmoidcore.training.data.preparation import Request, samples_data, table_data
from sigmoidcore.training.data.readers import (
    ARRAYS,
    TABLE_FILES,
    TEXT,
    MemoryTable,
    as_table,
    opened,
    suffix,
    unknown_kind,
)  # fmt: skip
from sigmoidcore.training.data.samples import array_samples, has_images, matrix_table, read_arrays, training_images
from sigmoidcore.training.data.targets import class_target, target_values

IN_MEMORY = 2**30
"""Bytes: larger Parquet and Arrow files and folders of images are streamed."""


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
        source: the name of a built-in set (digits, fashion-mnist, mnist1d, wine, breast-cancer, diabetes); a file (CSV,
            TSV, JSON lines, Parquet, Arrow, NPZ, NPY); a folder of images with one subfolder for each class, or of
            Parquet files; a pandas, polars or pyarrow table.
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
        if isinstance(source, str) and source in BUILT_IN:
            request.refuse_columns(source, own_split=True)
            return built_in(source, request)
        if isinstance(source, str | Path):
            return _from_path(Path(source), request)
    return table_data("table", MemoryTable(as_table(source)), request)


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
    parts = request.split(path, images.count, target)
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
    return samples_data(path.stem, samples, target, request.split(path, len(x), target), request.in_memory)


def check_path(path: Path) -> None:
    """Refuse a path that cannot be read."""
    if "\0" in str(path):
        raise DataError("a file's name cannot contain a zero byte: give another one")
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
