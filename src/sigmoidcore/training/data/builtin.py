"""Data sets, split and scaled: scikit-learn's digits, and Fashion-MNIST from a folder of idx files."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.split import Split

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts it."""


def digits() -> Split:
    """scikit-learn's digits: 8 x 8 pixels, 10 classes, 1,400 train and 397 test samples.

    The split is stratified and always the same (`train_test_split(test_size=397, random_state=0, stratify=y)`).

    Raises:
        ModuleNotFoundError: scikit-learn is not installed (extra `cli` or `sklearn`).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=397, random_state=0, stratify=y)
    return _split("digits", train_x, train_y, test_x, test_y)


def fashion_mnist(train: int = 60_000, test: int = 10_000, folder: Path = FASHION_MNIST) -> Split:
    """Fashion-MNIST: 28 x 28 pixels, 10 classes; the first `train` and `test` images of its two parts.

    Args:
        train: number of training images, at most 60,000.
        test: number of test images, at most 10,000.
        folder: holds the four gzipped idx files.

    Raises:
        FileNotFoundError: the folder lacks a file; the message says how to get it.
    """
    parts = []
    for part, count in (("train", train), ("t10k", test)):
        parts.append(_read_idx(folder / f"{part}-images-idx3-ubyte.gz")[:count].reshape(-1, 784) / 255.0)
        parts.append(_read_idx(folder / f"{part}-labels-idx1-ubyte.gz")[:count])
    return _split("fashion-mnist", *parts)


def _split(name: str, train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> Split:
    mean, deviation = train_x.mean(), train_x.std()

    def features(x: np.ndarray) -> Tensor:
        return torch.tensor((x - mean) / deviation, dtype=torch.float32)

    def labels(y: np.ndarray) -> Tensor:
        return torch.tensor(y, dtype=torch.int64)

    return Split(name, features(train_x), labels(train_y), features(test_x), labels(test_y), int(train_y.max()) + 1)


def _read_idx(path: Path) -> np.ndarray:
    """Read one gzipped idx file of unsigned bytes (the format of MNIST)."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: install Debian's package dataset-fashion-mnist, or give the folder of the idx files"
        )
    data = gzip.decompress(path.read_bytes())
    zero, kind, dimensions = struct.unpack(">HBB", data[:4])
    if zero != 0 or kind != 8:
        raise ValueError(f"{path} is no idx file of unsigned bytes: its first bytes are {data[:4].hex()}")
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
