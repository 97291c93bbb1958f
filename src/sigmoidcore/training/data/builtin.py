"""Data sets that need no file of the user: scikit-learn's, Fashion-MNIST from Debian's package, mnist1d."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.arrays import read_idx
from sigmoidcore.training.data.batches import in_memory
from sigmoidcore.training.data.dataset import Data, Split
from sigmoidcore.training.data.errors import needed
from sigmoidcore.training.data.fingerprint import Fingerprint
from sigmoidcore.training.data.preprocessing import Preprocessing, SampleInputs
from sigmoidcore.training.data.splits import random_parts, reshuffled
from sigmoidcore.training.data.targets import Kind, Target

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package `dataset-fashion-mnist`."""
TABLES: Mapping[str, str] = {"wine": "load_wine", "breast-cancer": "load_breast_cancer", "diabetes": "load_diabetes"}
BUILT_IN = ("digits", "fashion-mnist", "mnist1d", *TABLES)
"""Names of the built-in sets."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training samples and their classes, test samples and theirs."""


def digits() -> Split:
    """scikit-learn's digits: 8 x 8 pixels, 10 classes, 1,400 train and 397 test samples.

    The split is stratified and always the same (`train_test_split(test_size=397, random_state=0, stratify=y)`).

    Raises:
        ModuleNotFoundError: scikit-learn is not installed (extra `cli` or `sklearn`).
    """
    return _split("digits", *_digits())


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
    train_x, train_y, test_x, test_y = _idx(folder)
    return _split("fashion-mnist", train_x[:train], train_y[:train], test_x[:test], test_y[:test])


def idx_folder(name: str, folder: Path, validation: float = 0.0, seed: int = 0) -> Data:
    """A set of images from a folder of four idx files, with its own split."""
    arrays = _idx(folder)
    side = read_idx(folder, "t10k")[0].shape[1:]
    return _data(name, (1, *side), arrays, validation, seed)


def built_in(name: str, validation: float = 0.0, seed: int = 0) -> Data:
    """A built-in set that has its own split: digits, fashion-mnist or mnist1d."""
    if name == "fashion-mnist":
        return idx_folder(name, FASHION_MNIST, validation, seed)
    return _data(name, (1, 8, 8) if name == "digits" else (40,), _arrays(name), validation, seed)


def built_in_test(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples and classes of the test part of a built-in set, not scaled."""
    return _arrays(name)[2:]


def _arrays(name: str) -> Arrays:
    if name == "fashion-mnist":
        return _idx(FASHION_MNIST)
    return _digits() if name == "digits" else _mnist1d()


def built_in_table(name: str) -> Any:
    """A built-in table as a pandas.DataFrame; the target is the column "target"."""
    needed("pandas", "pandas")
    read = getattr(needed("sklearn.datasets", "scikit-learn"), TABLES[name])
    return read(as_frame=True, **({"scaled": False} if name == "diabetes" else {})).frame


def _digits() -> Arrays:
    x, y = needed("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    split = needed("sklearn.model_selection", "scikit-learn").train_test_split
    train_x, test_x, train_y, test_y = split(x, y, test_size=397, random_state=0, stratify=y)
    return train_x, train_y, test_x, test_y


def _idx(folder: Path) -> Arrays:
    (train_x, train_y), (test_x, test_y) = (read_idx(folder, part) for part in ("train", "t10k"))
    return train_x.reshape(len(train_x), -1) / 255.0, train_y, test_x.reshape(len(test_x), -1) / 255.0, test_y


def _mnist1d() -> Arrays:
    module = needed("mnist1d.data", "mnist1d", "mnist1d")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:  # it seeds all generators
        made = module.make_dataset()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
    return made["x"], made["y"], made["x_test"], made["y_test"]


def _split(name: str, train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> Split:
    mean, deviation = train_x.mean(), train_x.std()

    def features(x: np.ndarray) -> Tensor:
        return torch.tensor((x - mean) / deviation, dtype=torch.float32)

    def labels(y: np.ndarray) -> Tensor:
        return torch.tensor(y, dtype=torch.int64)

    return Split(name, features(train_x), labels(train_y), features(test_x), labels(test_y), int(train_y.max()) + 1)


def _data(name: str, shape: tuple[int, ...], arrays: Arrays, validation: float, seed: int) -> Data:
    split = _split(name, *arrays)
    classes = tuple(str(number) for number in range(split.classes))
    inputs = SampleInputs(shape, (float(arrays[0].mean()),), (float(arrays[0].std()),))
    target = Target(("class",), Kind.TWO_CLASSES if len(classes) == 2 else Kind.CLASSES, classes)
    fingerprint = Fingerprint()
    for array_name, array in zip(("train", "train classes", "test", "test classes"), arrays, strict=True):
        fingerprint.add(array_name, array)
    x, y = split.train_x.reshape(-1, *shape), split.train_y
    test = in_memory(split.test_x.reshape(-1, *shape), split.test_y)
    validated = in_memory(x[:0], y[:0])
    if validation:
        parts = random_parts(len(y), classes, y.numpy(), validation, 0.0, seed)
        validated = in_memory(x[parts.test], y[parts.test])
        x, y = x[parts.train], y[parts.train]
    counts = tuple(y.bincount(minlength=split.classes).tolist())
    train = in_memory(x, y, reshuffled)
    return Data.of(name, (train, validated, test), Preprocessing(inputs, target), counts, (), fingerprint.digests())
