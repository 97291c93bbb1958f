"""Data sets that need no file of the user: scikit-learn's, Fashion-MNIST from Debian's package."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigmoidcore.training.data.dataset import Split
from sigmoidcore.training.data.errors import DataError, needed
from sigmoidcore.training.data.files import unpacked
from sigmoidcore.training.data.preprocessing import SampleInputs
from sigmoidcore.training.data.samples import Samples, array_samples
from sigmoidcore.training.data.splits import Parts
from sigmoidcore.training.data.targets import Kind, Target, TargetValues

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package `dataset-fashion-mnist`."""
SHAPES: Mapping[str, tuple[int, ...]] = {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28)}
"""Built-in sets of images, and the shape of one."""
TABLES: Mapping[str, str] = {"wine": "load_wine", "breast-cancer": "load_breast_cancer", "diabetes": "load_diabetes"}
BUILT_IN = (*SHAPES, *TABLES)
"""Names of the built-in sets."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training samples and their classes, test samples and theirs."""


def digits() -> Split:
    """scikit-learn's digits: 8 x 8 pixels, 10 classes, 1,400 train and 397 test samples.

    The split is stratified and always the same (`train_test_split(test_size=397, random_state=0, stratify=y)`).

    Raises:
        ModuleNotFoundError: scikit-learn is not installed (extra `cli` or `sklearn`).
    """
    return _split("digits", _digits())


def fashion_mnist(train: int = 60_000, test: int = 10_000, folder: Path = FASHION_MNIST) -> Split:
    """Fashion-MNIST: 28 x 28 pixels, 10 classes; the first `train` and `test` images of its two parts.

    Args:
        train: number of training images, at most 60,000.
        test: number of test images, at most 10,000.
        folder: with the four idx files, gzipped or not.

    Raises:
        FileNotFoundError: the folder lacks a file; the message says how to get it.
        DataError: a file cannot be read.
    """
    train_x, train_y, test_x, test_y = _fashion_mnist(folder)
    return _split("fashion-mnist", (train_x[:train], train_y[:train], test_x[:test], test_y[:test]))


def built_in_samples(name: str) -> tuple[Samples, TargetValues, Parts, SampleInputs]:
    """A built-in set of images with its classes, its own training and test part, and its scale."""
    train_x, train_y, test_x, test_y = arrays = _arrays(name)
    y, count = np.concatenate([train_y, test_y]).astype(np.int64), len(train_y)
    samples = array_samples(name, np.concatenate([train_x, test_x]), {}, SHAPES[name])
    target = TargetValues(Target(("class",), Kind.CLASSES, tuple(str(n) for n in range(int(y.max()) + 1))), y)
    mean, deviation = _scale(arrays)
    parts = Parts(np.arange(count), np.arange(0), np.arange(count, len(y)))
    return samples, target, parts, SampleInputs(SHAPES[name], (mean,), (deviation,))


def built_in_test(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples and classes of the test part of a built-in set of images, not scaled."""
    return _arrays(name)[2:]


def built_in_table(name: str) -> Any:
    """A built-in table as a pandas.DataFrame; the target is the column "target"."""
    needed("pandas", "pandas")
    read = getattr(needed("sklearn.datasets", "scikit-learn"), TABLES[name])
    return read(as_frame=True, **({"scaled": False} if name == "diabetes" else {})).frame


def _arrays(name: str) -> Arrays:
    return _digits() if name == "digits" else _fashion_mnist(FASHION_MNIST)


def _scale(arrays: Arrays) -> tuple[float, float]:
    """Mean and deviation of all training pixels."""
    return float(arrays[0].mean()), float(arrays[0].std())


def _split(name: str, arrays: Arrays) -> Split:
    mean, deviation = _scale(arrays)
    train_x, test_x = (torch.tensor((x - mean) / deviation, dtype=torch.float32) for x in arrays[::2])
    train_y, test_y = (torch.tensor(y, dtype=torch.int64) for y in arrays[1::2])
    return Split(name, train_x, train_y, test_x, test_y, int(train_y.max()) + 1)


def _digits() -> Arrays:
    x, y = needed("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    split = needed("sklearn.model_selection", "scikit-learn").train_test_split
    train_x, test_x, train_y, test_y = split(x, y, test_size=397, random_state=0, stratify=y)
    return train_x, train_y, test_x, test_y


def _fashion_mnist(folder: Path) -> Arrays:
    train_x, train_y, test_x, test_y = (
        _read_idx(folder, part, what) for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
    )
    return train_x.reshape(len(train_x), -1) / 255.0, train_y, test_x.reshape(len(test_x), -1) / 255.0, test_y


def _read_idx(folder: Path, part: str, what: str) -> np.ndarray:
    """An idx file of unsigned bytes: images [images, height, width] or labels [images]."""
    paths = [folder / f"{part}-{what}-ubyte{ending}" for ending in (".gz", "")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{paths[0]} does not exist: install Debian's package dataset-fashion-mnist, or give the folder of the idx "
            "files"
        )
    data = unpacked(path)
    try:
        shape = struct.unpack_from(f">{data[3]}I", data, 4) if data[:3] == b"\0\0\x08" else ()
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (IndexError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a complete idx file of unsigned bytes: copy or load it again") from error
