"""NumPy's files: NPY with one matrix, NPZ with inputs and targets. Nothing in them is ever run."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sigmoidcore.training.data.error import DataError, nearest, short
from sigmoidcore.training.data.packed import largest, too_large

INPUTS = ("x", "X", "inputs", "data", "features", "images")
TARGETS = ("y", "Y", "targets", "target", "labels", "label")
"""Names of arrays that are taken for the inputs and the targets."""


def read_arrays(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of an NPZ file by name; of an NPY file the one that it has, under the name "".

    Raises:
        DataError: the file cannot be read, or holds Python objects.
    """
    try:
        with path.open("rb") as file:  # NumPy would leave it open where it cannot read it
            if zipfile.is_zipfile(file):
                _check_size(path, file)
            file.seek(0)
            opened = np.load(file, allow_pickle=False)
            arrays = (
                {"": opened} if isinstance(opened, np.ndarray) else {n: np.asarray(opened[n]) for n in opened.files}
            )
    except DataError:
        raise
    except Exception as error:  # a header that is no Python, a broken archive, no memory: NumPy has a kind for each
        if "pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, or is no file of NumPy: objects could run code and are not read; save "
                "plain arrays of numbers (not of dtype object) with numpy.savez"
            ) from error
        raise DataError(f"{path} cannot be read as {path.suffix[1:]} ({short(error, 120)}): was it cut off?") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biufSU":
            raise DataError(
                f"array {short(name)!r} of {path} is of type {short(array.dtype)}: give arrays of numbers, truth "
                "values or text"
            )
    return arrays


def _check_size(path: Path, file: BinaryIO) -> None:
    """Refuse an archive that is small and becomes too large for memory."""
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > largest():
            raise DataError(too_large(path))


def inputs_and_targets(
    path: Path, arrays: Mapping[str, np.ndarray], target: str | None
) -> tuple[np.ndarray, np.ndarray, str]:
    """The inputs [samples, ...], the targets [samples] or [samples, numbers], and the name of the targets.

    Raises:
        DataError: it is not clear which arrays they are, or they do not fit.
    """
    named = target if target is not None else next((name for name in TARGETS if name in arrays), None)
    if named is None:
        raise DataError(f"{path} has no array named y: say which one is the target (--target); {nearest('y', arrays)}")
    if named not in arrays:
        raise DataError(f"{path} has no array {short(named)!r}: {nearest(named, arrays)}")
    others = [name for name in arrays if name != named]
    inputs = next((name for name in INPUTS if name in others), others[0] if len(others) == 1 else None)
    if inputs is None:
        raise DataError(
            f"{path} has no array named x for the inputs: name it so when you save it; {nearest('x', arrays)}"
        )
    x, y = arrays[inputs], arrays[named]
    if x.ndim < 1 or y.ndim not in (1, 2) or len(x) != len(y):
        raise DataError(
            f"{path}: inputs {short(inputs)!r} have the shape {list(x.shape)} and targets {short(named)!r} "
            f"{list(y.shape)}: give as many targets as inputs, [samples] or [samples, numbers]"
        )
    if not x.size or not y.size:
        raise DataError(f"{path} has arrays without samples: give a file with data in it")
    return (x[:, None] if x.ndim == 1 else x), y, named


def inputs_of(
    path: Path, arrays: Mapping[str, np.ndarray], targets: Sequence[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The inputs, and the targets if they are there, of new data for a network that has learnt these targets.

    Args:
        path: for messages.
        arrays: of an NPZ file.
        targets: names of the columns that were learnt; several are those of one array with two dimensions, numbered.

    Raises:
        DataError: it is not clear which array has the inputs, or inputs and targets do not fit.
    """
    named = targets[0] if len(targets) == 1 else targets[0][:-1]
    others = [name for name in arrays if name != named]
    inputs = next((name for name in INPUTS if name in others), others[0] if len(others) == 1 else None)
    if inputs is None:
        raise DataError(
            f"{path} has no array named x for the inputs: name it so when you save it; {nearest('x', arrays)}"
        )
    x, y = arrays[inputs], arrays.get(named)
    if y is not None and (y.shape[:1] != x.shape[:1] or y.size != len(x) * len(targets)):
        raise DataError(
            f"{path}: inputs {short(inputs)!r} have the shape {list(x.shape)} and targets {short(named)!r} "
            f"{list(y.shape)}: give as many targets as inputs, or none"
        )
    return (x[:, None] if x.ndim == 1 else x), y
