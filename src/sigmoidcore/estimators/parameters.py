"""Checks of the estimators' parameters: each says which one is wrong, what it is, and what it may be."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

WHOLE = (int, np.integer)
REAL = (*WHOLE, float, np.floating)


def hidden_widths(sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes` as a tuple; a single number is one layer.

    Raises:
        ValueError: there is no layer, or one without neurons.

    Example:
        >>> hidden_widths([8, 4]), hidden_widths(5)
        ((8, 4), (5,))
    """
    widths = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
    if not widths or not all(isinstance(w, WHOLE) and w >= 1 for w in widths):
        raise ValueError(
            f"hidden_layer_sizes must be numbers of neurons of at least 1, one for each hidden layer, got {sizes!r}"
        )
    return tuple(int(w) for w in widths)


def batch_of(samples: int) -> int:
    """What `batch_size="auto"` stands for: a fifth of the samples, from 16 to 200.

    An epoch has at least five steps then, however small the data are: with one step an epoch, as in `MLPRegressor`,
    200 epochs are too few to learn from 200 samples.

    Example:
        >>> batch_of(50), batch_of(300), batch_of(10_000)
        (16, 60, 200)
    """
    return min(200, max(16, samples // 5))


def check(estimator: Any) -> None:
    """Raise a ValueError if a parameter is out of range."""
    hidden_widths(estimator.hidden_layer_sizes)
    for name, least in (("max_iter", 1), ("n_iter_no_change", 1)):
        value = getattr(estimator, name)
        if not isinstance(value, WHOLE) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if estimator.batch_size != "auto" and not (isinstance(estimator.batch_size, WHOLE) and estimator.batch_size >= 1):
        raise ValueError(f'batch_size must be "auto" or a whole number of at least 1, got {estimator.batch_size!r}')
    ranges = {
        "learning_rate_init": (0.0, math.inf, False),
        "weight_decay": (0.0, math.inf, True),
        "tol": (0.0, math.inf, True),
        "validation_fraction": (0.0, 1.0, False),
    }
    for name, (low, high, closed) in ranges.items():
        value = getattr(estimator, name)
        if name == "weight_decay" and isinstance(value, str) and value == "auto":
            continue
        if not isinstance(value, REAL) or not (low <= value if closed else low < value) or not value < high:
            bound = f"at least {low:g}" if closed else f"above {low:g}"
            raise ValueError(f"{name} must be a number {bound} and below {high:g}, got {value!r}")
