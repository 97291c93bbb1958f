"""Checks of the arguments that the `Equalizer` and the `Monitor` share."""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from torch import nn


def check_equalizer(every: Any, tolerance: Any, floor: Any) -> None:
    """Raise a ValueError if an argument of an Equalizer is out of range."""
    if every != "auto" and (type(every) is not int or every < 1):
        raise ValueError(f'every must be "auto" or a number of steps of at least 1, got {every!r}')
    if not (isinstance(tolerance, Real) and 1 < float(tolerance) < math.inf):
        raise ValueError(f"tolerance must be a factor above 1, got {tolerance!r}; 2 is the usual choice")
    if not (isinstance(floor, Real) and 0 < float(floor) < 1):
        raise ValueError(f"floor must be between 0 and 1, got {floor!r}; 0.05 is the usual choice")


def check_model(model: Any) -> None:
    """Raise a TypeError for anything but an nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def check_optimizer(optimizer: Any) -> None:
    """Raise a TypeError for anything but an optimizer or a wrapper of one."""
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise TypeError(
            f"optimizer must be the torch.optim.Optimizer that trains the model, got {type(optimizer).__name__}"
        )


def checked_sinks(sinks: Any) -> tuple[Callable[[Any], object], ...]:
    """The sinks as a tuple; a TypeError for anything but functions of one argument in a list."""
    found = tuple(sinks) if isinstance(sinks, Iterable) else (None,)
    if not all(callable(sink) and not isinstance(sink, type) for sink in found):
        raise TypeError(f'sinks must be a list of functions, as in sinks=[CSV("samples.csv")], got {sinks!r:.60}')
    return found
