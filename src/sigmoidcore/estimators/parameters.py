"""Checks of the estimators' parameters: each says which one is wrong, what it is, and what it may be."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from sigmoidcore.calibration.calibrate import MOST_SATURATED

WHOLE = (int, np.integer)
REAL = (*WHOLE, float, np.floating)

_SWITCHES = ("shuffle", "warm_start", "early_stopping")
_AUTOMATIC = ("batch_size", "saturation", "weight_decay")
_NUMBERS: dict[str, tuple[tuple[type, ...], str, Callable[[Any], bool]]] = {
    "max_iter": (WHOLE, "a whole number of at least 1", lambda value: value >= 1),
    "n_iter_no_change": (WHOLE, "a whole number of at least 1", lambda value: value >= 1),
    "batch_size": (WHOLE, "a whole number of at least 1", lambda value: value >= 1),
    "saturation": (REAL, f"a number above 0, up to {MOST_SATURATED:g}", lambda value: 0 < value <= MOST_SATURATED),
    "tolerance": (REAL, "a finite factor above 1", lambda value: 1 < value < math.inf),
    "learning_rate_init": (REAL, "a finite number above 0", lambda value: 0 < value < math.inf),
    "weight_decay": (REAL, "a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "tol": (REAL, "a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "validation_fraction": (REAL, "a number between 0 and 1", lambda value: 0 < value < 1),
}
"""Of each number its types, what it may be, and whether a value is that."""


def hidden_widths(sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes` as a tuple; a single number is one layer.

    Raises:
        ValueError: there is no layer, or one without neurons.

    Example:
        >>> hidden_widths([8, 4]), hidden_widths(5)
        ((8, 4), (5,))
    """
    widths = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
    if not widths or not all(_is_a(WHOLE, w) and w >= 1 for w in widths):
        raise ValueError(
            f"hidden_layer_sizes must be numbers of neurons of at least 1, one for each hidden layer, got {sizes!r}"
        )
    return tuple(int(w) for w in widths)


def batch_of(samples: int) -> int:
    """What `batch_size="auto"` stands for: a fifth of the samples, from 16 to 200.

    An epoch has at least five steps then, from 65 samples on: with one step an epoch, as in `MLPRegressor`, 200 epochs
    are too few to learn from 200 samples.

    Example:
        >>> batch_of(50), batch_of(300), batch_of(10_000)
        (16, 60, 200)
    """
    return min(200, max(16, samples // 5))


def device_of(name: Any) -> torch.device:
    """The device that a name or a `torch.device` stands for.

    Raises:
        ValueError: PyTorch knows no such device, or this machine has none.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        raise ValueError(
            f'device must be one that this machine has and PyTorch can use, as "cpu", got {name!r}: '
            f"{str(error).splitlines()[0]}"
        ) from error
    return device


def check(estimator: Any) -> None:
    """Raise a ValueError if a parameter is not what it may be."""
    hidden_widths(estimator.hidden_layer_sizes)
    for name in _SWITCHES:
        value = getattr(estimator, name)
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    for name, (types, what, fits) in _NUMBERS.items():
        value = getattr(estimator, name)
        if name in _AUTOMATIC:
            if isinstance(value, str) and value == "auto":
                continue
            what = f'"auto" or {what}'
        if not _is_a(types, value) or not fits(value):
            raise ValueError(f"{name} must be {what}, got {value!r}")
    device_of(estimator.device)


def check_class_weight(given: Any) -> None:
    """Raise a ValueError if a weight of a class cannot be one; the rest is for `sklearn.utils.compute_sample_weight`.

    Args:
        given: "balanced", a dict of weights by class, or a list of them, one for each label.
    """
    for weights in given if isinstance(given, list) else [given]:
        for name, weight in weights.items() if isinstance(weights, dict) else ():
            if not _is_a(REAL, weight) or not 0 <= weight < math.inf:
                raise ValueError(
                    f"class_weight must have finite numbers of at least 0, got {weight!r} for class {name!r}"
                )


def _is_a(types: tuple[type, ...], value: Any) -> bool:
    """Whether a value is a number of these types; True and False are none."""
    return isinstance(value, types) and not isinstance(value, bool)
