"""The idx files of MNIST and its kind: arrays of unsigned bytes, gzipped or not."""

import struct
from math import prod
from pathlib import Path

import numpy as np

from sigmoidcore.training.data.error import DataError
from sigmoidcore.training.data.packed import unpacked

PARTS = (("train", "images-idx3"), ("train", "labels-idx1"), ("t10k", "images-idx3"), ("t10k", "labels-idx1"))


def has_idx(folder: Path) -> bool:
    """Whether a folder has at least one of the four files."""
    return any(_find(folder, part, what) is not None for part, what in PARTS)


def read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8, [images, height, width], and labels, uint8, [images], of the part "train" or "t10k".

    Raises:
        FileNotFoundError: the folder lacks a file; the message says how to get it.
        DataError: a file is no idx file, or they do not fit each other.
    """
    images, labels = (_read(folder, part, what) for what in ("images-idx3", "labels-idx1"))
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


def _read(folder: Path, part: str, what: str) -> np.ndarray:
    path = _find(folder, part, what)
    if path is None:
        raise FileNotFoundError(
            f"{folder / f'{part}-{what}-ubyte.gz'} is not there: install Debian's package dataset-fashion-mnist, or "
            "give the folder of the idx files"
        )
    data, _ = unpacked(path)
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path} is no idx file of unsigned bytes: its first bytes are {data[:4].hex()}")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if len(values) != prod(shape):
        raise DataError(
            f"{path} has {len(values):,} bytes where its shape {list(shape)} needs {prod(shape):,}: was it cut off?"
        )
    return values.reshape(shape)
