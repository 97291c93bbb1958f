"""Checks of the estimators' parameters: an error names the parameter, its value, and the allowed values."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from sigmoidcore.calibration.calibrate import MOST_SATURATED

INTEGER = (int, np.integer)
REAL = (*INTEGER, float, np.floating)
_SWITCHES = ("shuffle", "warm_start", "early_stopping")
_AUTOMATIC = ("batch_size", "saturation", "weight_decay")
_NUMBERS: dict[str, tuple[tuple[type, ...], str, Callable[[Any], bool]]] = {
    "max_iter": (INTEGER, "a whole number of at least 1", lambda value: value >= 1),
    "n_iter_no_change": (INTEGER, "a whole number of at least 1", lambda value: value >= 1),
    "batch_size": (INTEGER, "a whole number of at least 1", lambda value: value >= 1),
    "saturation": (REAL, f"a number above 0, up to {MOST_SATURATED:g}", lambda value: 0 < value <= MOST_SATURATED),
    "tolerance": (REAL, "a finite factor above 1", lambda value: 1 < value < math.inf),
    "learning_rate_init": (REAL, "a finite number above 0", lambda value: 0 < value < math.inf),
    "weight_decay": (REAL, "a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "tol": (REAL, "a finite number of at least 0", lambda value: 0 <= value < math.inf),
    "validation_fraction": (REAL, "a number between 0 and 1", lambda value: 0 < value < 1),
}
"""Types, allowed values in words, and the test for them."""


def check_parameters(estimator: Any) -> None:
    """Raise a ValueError if a parameter has a value that is not allowed."""
    hidden_widths(estimator.hidden_layer_sizes)
    for name in _SWITCHES:
        value = getattr(estimator, name)
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    for name, (types, allowed, fits) in _NUMBERS.items():
        value = getattr(estimator, name)
        if name in _AUTOMATIC:
            if isinstance(value, str) and value == "auto":
                continue
            allowed = f'"auto" or {allowed}'
        if not _is_number(types, value) or not fits(value):
            raise ValueError(f"{name} must be {allowed}, got {value!r}")
    device_of(estimator.device)


def hidden_widths(sizes: Any) -> tuple[int, ...]:
    """`hidden_layer_sizes` as a tuple; a single number is one layer.

    Example:
        >>> hidden_widths([8, 4]), hidden_widths(5)
        ((8, 4), (5,))
    """
    widths = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
    if not widths or not all(_is_number(INTEGER, width) and width >= 1 for width in widths):
        raise ValueError(
            f"hidden_layer_sizes must be numbers of neurons of at least 1, one for each hidden layer, got {sizes!r}"
        )
    return tuple(int(width) for width in widths)


def automatic_batch_size(samples: int) -> int:
    """The value of `batch_size="auto"`: a fifth of the samples, from 16 to 200.

    An epoch then has at least five steps from 65 samples on. One step an epoch, as in `MLPRegressor`, is too few to
    learn from 200 samples in 200 epochs.

    Example:
        >>> automatic_batch_size(50), automatic_batch_size(300), automatic_batch_size(10_000)
        (16, 60, 200)
    """
    return min(200, max(16, samples // 5))


def device_of(name: Any) -> torch.device:
    """The device of a name or a `torch.device`, if PyTorch can use it on this machine."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        raise ValueError(
            f'device must be one that PyTorch can use on this machine, such as "cpu", got {name!r}: '
            f"{str(error).splitlines()[0]}"
        ) from error
    return device


def check_class_weight(class_weight: Any) -> None:
    """Raise a ValueError for a weight that is negative or not finite; `compute_sample_weight` checks the rest."""
    for weights in class_weight if isinstance(class_weight, list) else [class_weight]:
        for name, weight in weights.items() if isinstance(weights, dict) else ():
            if not _is_number(REAL, weight) or not 0 <= weight < math.inf:
                raise ValueError(
                    f"class_weight must contain finite numbers of at least 0, got {weight!r} for class {name!r}"
                )


def _is_number(types: tuple[type, ...], value: Any) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
