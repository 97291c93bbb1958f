"""Data sets that need no file of the user: those of scikit-learn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sigmoidcore.training.data.dataset import Split
from sigmoidcore.training.data.errors import needed
from sigmoidcore.training.data.preprocessing import SampleInputs
from sigmoidcore.training.data.samples import Samples, array_samples
from sigmoidcore.training.data.splits import Parts
from sigmoidcore.training.data.targets import Kind, Target, TargetValues

TABLES: Mapping[str, str] = {"wine": "load_wine", "breast-cancer": "load_breast_cancer", "diabetes": "load_diabetes"}
BUILT_IN = ("digits", *TABLES)
"""Names of the built-in sets."""
CLASSES = 10
"""Of the digits."""


def digits() -> Split:
    """scikit-learn's digits: 8 x 8 pixels, 10 classes, 1,400 train and 397 test samples.

    The split is stratified and always the same (`train_test_split(test_size=397, random_state=0, stratify=y)`).

    Raises:
        ModuleNotFoundError: scikit-learn is not installed (extra `cli` or `sklearn`).
    """
    arrays = _arrays()
    mean, deviation = float(arrays[0].mean()), float(arrays[0].std())
    train_x, test_x = (torch.tensor((x - mean) / deviation, dtype=torch.float32) for x in arrays[::2])
    train_y, test_y = (torch.tensor(y, dtype=torch.int64) for y in arrays[1::2])
    return Split("digits", train_x, train_y, test_x, test_y, CLASSES)


def digit_samples() -> tuple[Samples, TargetValues, Parts, SampleInputs]:
    """The digits as images, with their classes, their training and test part, and their scale."""
    train_x, train_y, test_x, test_y = _arrays()
    y, count, shape = np.concatenate([train_y, test_y]).astype(np.int64), len(train_y), (1, 8, 8)
    samples = array_samples("digits", np.concatenate([train_x, test_x]), {}, shape)
    target = TargetValues(Target(("class",), Kind.CLASSES, tuple(map(str, range(CLASSES)))), y)
    parts = Parts(np.arange(count), np.arange(0), np.arange(count, len(y)))
    return samples, target, parts, SampleInputs(shape, (float(train_x.mean()),), (float(train_x.std()),))


def digit_tests() -> tuple[np.ndarray, np.ndarray]:
    """Samples and classes of the test part of the digits, not scaled."""
    return _arrays()[2:]


def built_in_table(name: str) -> Any:
    """A built-in table as a pandas.DataFrame; the target is the column "target"."""
    needed("pandas", "pandas")
    read = getattr(needed("sklearn.datasets", "scikit-learn"), TABLES[name])
    return read(as_frame=True, **({"scaled": False} if name == "diabetes" else {})).frame


def _arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training samples and their classes, test samples and theirs."""
    x, y = needed("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    split = needed("sklearn.model_selection", "scikit-learn").train_test_split
    train_x, test_x, train_y, test_y = split(x, y, test_size=397, random_state=0, stratify=y)
    return train_x, train_y, test_x, test_y
