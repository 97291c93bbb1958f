"""Checks of the estimators' parameters: an error names the parameter, its value, and the allowed values."""

import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np

from sigmoidcore.calibration.calibrate import MOST_SATURATED

Allowed = tuple[type, str, Callable[[Any], bool]]
"""The type of a parameter, its values in words, and the test for them."""
COUNT: Allowed = (Integral, "a whole number of at least 1", lambda value: value >= 1)
NOT_NEGATIVE: Allowed = (Real, "a finite number of at least 0", lambda value: 0 <= value < math.inf)
NUMBERS: dict[str, Allowed] = {
    "max_iter": COUNT,
    "n_iter_no_change": COUNT,
    "batch_size": COUNT,
    "saturation": (Real, f"a number above 0, up to {MOST_SATURATED:g}", lambda value: 0 < value <= MOST_SATURATED),
    "tolerance": (Real, "a finite factor above 1", lambda value: 1 < value < math.inf),
    "learning_rate_init": (Real, "a finite number above 0", lambda value: 0 < value < math.inf),
    "weight_decay": NOT_NEGATIVE,
    "tol": NOT_NEGATIVE,
    "validation_fraction": (Real, "a number between 0 and 1", lambda value: 0 < value < 1),
}
AUTOMATIC = ("batch_size", "max_iter", "saturation", "weight_decay")


def check_parameters(estimator: Any) -> None:
    """Raise a ValueError if a parameter has a value that is not allowed."""
    hidden_widths(estimator.hidden_layer_sizes)
    for name in ("shuffle", "warm_start", "early_stopping"):
        value = getattr(estimator, name)
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    for name, (kind, allowed, fits) in NUMBERS.items():
        value, automatic = getattr(estimator, name), name in AUTOMATIC
        if automatic and isinstance(value, str) and value == "auto":
            continue
        if not isinstance(value, kind) or isinstance(value, bool) or not fits(value):
            words = f'"auto" or {allowed}' if automatic else allowed
            raise ValueError(f"{name} must be {words}, got {value!r}")


def hidden_widths(sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes` as a tuple; a single number is one layer."""
    widths = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
    if not widths or not all(isinstance(width, int | np.integer) and width >= 1 for width in widths):
        raise ValueError(f"hidden_layer_sizes must be one or more numbers of neurons of at least 1, got {sizes!r}")
    return tuple(int(width) for width in widths)


def automatic_batch_size(samples: int) -> int:
    """The value of `batch_size="auto"`: a fifth of the samples, from 16 to 200.

    One step an epoch, as in `MLPRegressor`, is too few to learn from 200 samples in 200 epochs.
    """
    return min(200, max(16, samples // 5))


def automatic_epochs(samples: int) -> int:
    """The value of `max_iter="auto"`: 200 up to 10,000 samples, then two million samples in all, at least 20 epochs."""
    return max(20, min(200, 2_000_000 // samples))
