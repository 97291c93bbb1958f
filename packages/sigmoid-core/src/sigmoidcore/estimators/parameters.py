"""Checks of the estimators' parameters, and the values of "auto"."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from sigmoidcore.calibration.calibrate import MOST_SATURATED

RANGES: dict[str, tuple[type, float, float, str]] = {
    "max_iter": (Integral, 1, math.inf, "both"),
    "n_iter_no_change": (Integral, 1, math.inf, "both"),
    "batch_size": (Integral, 1, math.inf, "both"),
    "saturation": (Real, 0, MOST_SATURATED, "right"),
    "tolerance": (Real, 1, math.inf, "neither"),
    "learning_rate_init": (Real, 0, math.inf, "neither"),
    "weight_decay": (Real, 0, math.inf, "left"),
    "tol": (Real, 0, math.inf, "left"),
    "validation_fraction": (Real, 0, 1, "neither"),
}
"""Type, smallest and largest value, and which of the two are allowed."""
AUTOMATIC = ("batch_size", "max_iter", "saturation", "weight_decay")


def check_parameters(estimator: Any) -> None:
    """Raise a ValueError or a TypeError if a parameter has a value that is not allowed."""
    for name, (kind, smallest, largest, bounds) in RANGES.items():
        value = getattr(estimator, name)
        if name not in AUTOMATIC or not isinstance(value, str):
            check_scalar(value, name, kind, min_val=smallest, max_val=largest, include_boundaries=bounds)
        elif value != "auto":
            raise ValueError(f'{name} must be "auto" or a number, got {value!r}')


def hidden_widths(sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes` as a tuple; a single number is one layer."""
    widths = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
    if not widths or not all(isinstance(width, int | np.integer) and width >= 1 for width in widths):
        raise ValueError(f"hidden_layer_sizes must be one or more numbers of neurons of at least 1, got {sizes!r}")
    return tuple(int(width) for width in widths)


def automatic_batch_size(samples: int) -> int:
    """The value of `batch_size="auto"`: a fifth of the samples, 16 to 200; one step an epoch would be too few."""
    return min(200, max(16, samples // 5))


def automatic_epochs(samples: int) -> int:
    """The value of `max_iter="auto"`: 200 up to 10,000 samples, then two million samples in all, at least 20 epochs."""
    return max(20, min(200, 2_000_000 // samples))
