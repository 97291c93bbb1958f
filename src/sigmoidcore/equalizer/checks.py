"""Checks of the arguments that the `Equalizer`, the `Monitor` and the callbacks of frameworks share.

A callback is made long before its model. With these checks it refuses wrong arguments when it is made.
"""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from torch import nn

SHOWN = 60
"""Characters of a value that an error quotes."""


def check_equalizer(every: Any, tolerance: Any, floor: Any) -> None:
    """Raise a ValueError if an argument of an Equalizer is out of range."""
    if every != "auto" and (type(every) is not int or every < 1):
        raise ValueError(f'every must be "auto" or a number of steps of at least 1, got {every!r}')
    if not (isinstance(tolerance, Real) and 1 < float(tolerance) < math.inf):
        raise ValueError(f"tolerance must be a factor above 1, got {tolerance!r}; 2 is the usual choice")
    if not (isinstance(floor, Real) and 0 < float(floor) < 1):
        raise ValueError(f"floor must be between 0 and 1, got {floor!r}; 0.05 is the usual choice")


def check_steps(name: str, steps: Any) -> None:
    """Raise a ValueError if the argument of this name is not a number of steps."""
    if type(steps) is not int or steps < 1:
        raise ValueError(f"{name} must be a number of steps of at least 1, got {steps!r}")


def check_model(model: Any) -> None:
    """Raise a TypeError for anything but an nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {described(model)}")


def check_optimizer(optimizer: Any) -> None:
    """Raise a TypeError for anything but an optimizer or a wrapper of one."""
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise TypeError(
            f"optimizer must be the torch.optim.Optimizer that trains the model, got {described(optimizer)}"
        )


def checked_sinks(sinks: Any) -> tuple[Callable[[Any], object], ...]:
    """The sinks as a tuple; a TypeError for anything but functions of one argument in a list."""
    if isinstance(sinks, str | Path) or not isinstance(sinks, Iterable):
        raise TypeError(
            f"sinks must be a list of functions of one argument, got {described(sinks)}: put one in brackets, as in "
            'sinks=[CSV("samples.csv")], and leave sinks out for none'
        )
    found = tuple(sinks)
    for sink in found:
        if isinstance(sink, type):
            raise TypeError(f"sinks hold {described(sink)}: make one of it, as in {sink.__name__}(...)")
        if not callable(sink):
            raise TypeError(
                f"sinks hold {described(sink)}, which is not a function of one argument: "
                'sigmoidcore.integrations.sinks has some, CSV("samples.csv") for a table'
            )
    return found


def described(value: Any) -> str:
    """A value of a wrong type, as an error names it."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, str | int | float):
        return f"{value!r:.{SHOWN}}"
    return type(value).__name__
