"""Arrays from NumPy's NPY and NPZ files and from the idx files of MNIST. Nothing in them is run."""

import struct
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from sigmoidcore.training.data.errors import DataError, nearest, short
from sigmoidcore.training.data.files import check_size, unpacked

INPUTS = ("x", "X", "inputs", "data", "features", "images")
TARGETS = ("y", "Y", "targets", "target", "labels", "label")
"""Names of arrays that are taken for the inputs and the targets."""


def read_arrays(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of an NPZ file by name; the array of an NPY file under the name ""."""
    try:
        with path.open("rb") as file:  # NumPy leaves a file open that it cannot read
            if zipfile.is_zipfile(file):
                check_size(path, sum(member.file_size for member in zipfile.ZipFile(file).infolist()))
            file.seek(0)
            opened = np.load(file, allow_pickle=False)
            arrays = (
                {"": opened} if isinstance(opened, np.ndarray) else {n: np.asarray(opened[n]) for n in opened.files}
            )
    except DataError:
        raise
    except Exception as error:  # NumPy has an error for each: a broken header, a broken archive, too little memory
        if "pickle" in str(error):
            raise DataError(
                f"{path} contains Python objects, or is not a file of NumPy: objects could run code and are not read; "
                "save plain arrays of numbers (not of dtype object) with numpy.savez"
            ) from error
        raise DataError(f"{path} cannot be read as {path.suffix[1:]} ({short(error, 120)}): was it cut off?") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biufSU":
            raise DataError(
                f"array {short(name)!r} of {path} has the type {short(array.dtype)}: give arrays of numbers, truth "
                "values or text"
            )
    return arrays


def inputs_and_targets(
    path: Path, arrays: Mapping[str, np.ndarray], target: str | None, required: bool = True
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """The inputs [samples, ...], the targets [samples] or [samples, numbers], and the name of the targets."""
    named = target if target is not None else next((name for name in TARGETS if name in arrays), None)
    if required and named is None:
        raise DataError(f"{path} has no array named y: name the target (--target); {nearest('y', arrays)}")
    if required and named not in arrays:
        raise DataError(f"{path} has no array {short(named)!r}: {nearest(str(named), arrays)}")
    others = [name for name in arrays if name != named]
    inputs = next((name for name in INPUTS if name in others), others[0] if len(others) == 1 else None)
    if inputs is None:
        raise DataError(f"{path} has no array named x for the inputs: name it x; {nearest('x', arrays)}")
    x, y = arrays[inputs], arrays.get(str(named))
    if x.ndim < 1 or (y is not None and (y.ndim not in (1, 2) or len(x) != len(y))):
        raise DataError(
            f"{path}: inputs {short(inputs)!r} have the shape {list(x.shape)} and targets {short(named)!r} "
            f"{[] if y is None else list(y.shape)}: give as many targets as inputs, [samples] or [samples, numbers]"
        )
    if not x.size or (y is not None and not y.size):
        raise DataError(f"{path} has arrays without samples: give a file with data")
    return (x[:, None] if x.ndim == 1 else x), y, str(named)


# --- idx -------------------------------------------------------------------------------------------------------------


def has_idx(folder: Path) -> bool:
    """Whether a folder has images or labels as idx files."""
    return any(_find(folder, part, what) for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


def read_idx(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8, [images, height, width], and labels, uint8, [images], of the part "train" or "t10k"."""
    images, labels = (_read_idx(folder, part, what) for what in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: the images of the part {part} have the shape {list(images.shape)}, its labels "
            f"{list(labels.shape)}: they are not of the same set; load them again"
        )
    return images, labels


def _find(folder: Path, part: str, what: str) -> Path | None:
    for name in (f"{part}-{what}-ubyte.gz", f"{part}-{what}-ubyte", f"{part}-{what.replace('-idx', '.idx')}-ubyte"):
        if (folder / name).is_file():
            return folder / name
    return None


def _read_idx(folder: Path, part: str, what: str) -> np.ndarray:
    path = _find(folder, part, what)
    if path is None:
        raise FileNotFoundError(
            f"{folder / f'{part}-{what}-ubyte.gz'} does not exist: install Debian's package dataset-fashion-mnist, or "
            "give the folder of the idx files"
        )
    data = unpacked(path)
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path} is not an idx file of unsigned bytes: its first bytes are {data[:4].hex()}")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != prod(shape):
        raise DataError(
            f"{path} has {len(values):,} bytes, but its shape {list(shape)} needs {prod(shape):,}: was it cut off?"
        )
    return values.reshape(shape)
