"""Data sets that need no file of the user: those of scikit-learn, and those that other packages bring."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from sigmoidcore.training.data.dataset import Split
from sigmoidcore.training.data.errors import DataError, needed
from sigmoidcore.training.data.samples import Samples, array_column, array_samples
from sigmoidcore.language import _

TABLES: Mapping[str, str] = {"wine": "load_wine", "breast-cancer": "load_breast_cancer", "diabetes": "load_diabetes"}
BUILT_IN = ("digits", *TABLES)
"""Names of the built-in sets."""
GROUP = "sigmoidcore.data"
"""Entry points of other packages: a function without arguments that returns a table or a path, as `load` takes them."""
DIGIT_TESTS = 397
"""Test samples of the digits; their split has the seed 0."""


def digits() -> Split:
    """scikit-learn's digits: 8 x 8 pixels, 10 classes, 1,400 train and 397 test samples.

    The split is stratified and always the same (`train_test_split(test_size=397, random_state=0, stratify=y)`).
    """
    x, y = needed("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    split = needed("sklearn.model_selection", "scikit-learn").train_test_split
    train_x, test_x, train_y, test_y = split(x, y, test_size=DIGIT_TESTS, random_state=0, stratify=y)
    mean, deviation = float(train_x.mean()), float(train_x.std())
    train_x, test_x = (torch.tensor((x - mean) / deviation, dtype=torch.float32) for x in (train_x, test_x))
    train_y, test_y = (torch.tensor(y, dtype=torch.int64) for y in (train_y, test_y))
    return Split("digits", train_x, train_y, test_x, test_y, classes=10)


def digit_samples() -> Samples:
    """The digits as images, with their classes."""
    x, y = needed("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    return array_samples("digits", x, {"class": array_column(y)}, (1, 8, 8))


def built_in_table(name: str) -> Any:
    """A built-in table as a pandas.DataFrame; the target is the column "target"."""
    needed("pandas", "pandas")
    read = getattr(needed("sklearn.datasets", "scikit-learn"), TABLES[name])
    return read(as_frame=True, **({"scaled": False} if name == "diabetes" else {})).frame


def package_data() -> list[str]:
    """The names of the sets of other packages."""
    return [entry.name for entry in entry_points(group=GROUP)]


def of_package(source: Any) -> Any:
    """What another package gives for this name, a table or a path; None without it, or if a file has the name."""
    if not isinstance(source, str) or source in BUILT_IN or "\0" in source or Path(source).exists():
        return None
    for entry in entry_points(group=GROUP, name=source):
        what = _("the entry point {name} = {value}", name=entry.name, value=entry.value)
        try:
            found = entry.load()()
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError("{what} raised {error}", what=what, error=text) from error
        if found is None:
            raise DataError("{what} returned None: let it return a table or a path", what=what)
        return found
    return None
