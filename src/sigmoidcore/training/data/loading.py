"""`load`: a data set from a name, a file, a folder or a table, ready to be learnt from."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sigmoidcore.training.data.builtin import BUILT_IN, TABLES, built_in, built_in_table, idx_folder
from sigmoidcore.training.data.dataset import Data
from sigmoidcore.training.data.error import DataError, listed, nearest, short
from sigmoidcore.training.data.idx import has_idx
from sigmoidcore.training.data.images import has_images
from sigmoidcore.training.data.parquet import Files
from sigmoidcore.training.data.request import Wanted
from sigmoidcore.training.data.sources import of_arrays, of_images, of_parquet, of_table
from sigmoidcore.training.data.tables import ARRAYS, FEATHER, PARQUET, TEXT, as_table, read_table, suffix

IN_MEMORY = 2**30
"""Bytes: Parquet files and folders of images that would take more are streamed."""


def load(
    source: Any,
    *,
    target: str | Sequence[str] | None = None,
    drop: Iterable[str] = (),
    test_size: float | None = None,
    seed: int = 0,
    kind: str | None = None,
    in_memory: int = IN_MEMORY,
) -> Data:
    """A data set: split into a training part and a test part, turned into numbers, ready for `train`.

    Args:
        source: the name of a built-in set (digits, fashion-mnist, mnist1d, wine, breast-cancer, diabetes); a file (CSV,
            TSV, either with .gz, Parquet, Feather, NPZ, NPY); a folder of images with one folder a class, of idx files,
            or of Parquet files; a pandas.DataFrame or a pyarrow.Table.
        target: the column that is to be learnt, or several columns of numbers; of an NPZ file the name of the array.
            Not needed for built-in sets, images, idx files, and arrays named x and y.
        drop: columns that are left out.
        test_size: share of the samples that are kept for the test, above 0 and below 1; None: 0.2, or the split that a
            built-in set or idx files have.
        seed: of the split. Classes have the same share in both parts.
        kind: "class" or "number"; None: found, see `Data.kind`.
        in_memory: bytes; Parquet files and images that would take more are read batch by batch.

    Raises:
        DataError: the data cannot be used; the message is one line with the cause and the remedy.
        ModuleNotFoundError: a package is not installed; the message says how to get it.

    Example:
        >>> data = load("wine")
        >>> str(data.kind), data.classes, data.shape, len(data.train), len(data.test)
        ('several classes', ('0', '1', '2'), (13,), 142, 36)
    """
    targets = (target,) if isinstance(target, str) else tuple(target or ())
    dropped = (drop,) if isinstance(drop, str) else tuple(drop)
    if test_size is not None and not 0 < test_size < 1:
        raise DataError(
            f"{test_size} is no share of the samples for the test: give a number above 0 and below 1, such as 0.2"
        )
    wanted = Wanted(targets, dropped, test_size, seed, kind, in_memory)
    try:
        if isinstance(source, str) and source in BUILT_IN:
            return _of_name(source, wanted)
        if isinstance(source, str | Path):
            return _of_path(Path(source), wanted)
    except FileNotFoundError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(
            f"{short(source, 200)} cannot be read: {error.strerror or short(error)}; give one that you may read"
        ) from error
    return of_table("table", as_table(source), wanted, written=False)


def _of_name(name: str, wanted: Wanted) -> Data:
    if name in TABLES:
        targets = wanted.targets or ("target",)
        table = as_table(built_in_table(name))
        return of_table(name, table, dataclasses.replace(wanted, targets=targets), written=False)
    wanted.without_columns(name, own_split=True)
    return built_in(name)


def _of_path(path: Path, wanted: Wanted) -> Data:
    if "\0" in str(path):
        raise DataError("a name of a file has no zero byte in it: give another one")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name {short(path, 200)} is no UTF-8 text, and a run could not write it down: rename it"
        ) from error
    if not path.exists():
        there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        hint = nearest(path.name, [*BUILT_IN, *there])
        hint = hint if hint.startswith("did you mean") else f"built in are: {', '.join(BUILT_IN)}"
        raise DataError(f"{short(path, 200)} is neither a file nor a folder nor a built-in set: {hint}")
    if path.is_dir():
        return _of_folder(path, wanted)
    if not path.is_file():
        raise DataError(f"{path} cannot be read twice, as it must be: write what it gives into a file")
    ending = suffix(path)
    if ending in ARRAYS:
        return of_arrays(path, wanted)
    if ending in PARQUET:
        return of_parquet(path.stem, Files((path,)), wanted)
    if ending in TEXT or ending in FEATHER:
        return of_table(path.name.partition(".")[0], read_table(path), wanted, written=ending in TEXT)
    known = ", ".join((*TEXT, *PARQUET, *FEATHER, *ARRAYS))
    raise DataError(f"{path} is of no kind that can be read: its name must end with one of {known}")


def _of_folder(path: Path, wanted: Wanted) -> Data:
    if has_idx(path):
        wanted.without_columns(path, own_split=True)
        return idx_folder(path.resolve().name, path)
    files = sorted(p for p in path.iterdir() if suffix(p) in PARQUET and not p.name.startswith("."))
    if files:
        return of_parquet(path.resolve().name, Files(tuple(files)), wanted)
    if not has_images(path):
        tables = sorted(p.name for p in path.iterdir() if suffix(p) in (*TEXT, *FEATHER, *ARRAYS))
        hint = f"give a file in it: {listed(tables)}" if tables else "make one folder a class in it, with images"
        raise DataError(f"{path} is a folder without images in folders, Parquet files or idx files: {hint}")
    wanted.without_columns(path, own_split=False)
    return of_images(path, wanted)
