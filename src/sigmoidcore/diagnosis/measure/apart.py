"""Compute beside a forward pass, unseen by those who record what it calls."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

_P = ParamSpec("_P")
_R = TypeVar("_R")


def apart(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, whose calls no `TorchDispatchMode` sees.

    Selective activation checkpoints replay what such a mode has seen, in order: one call more, and they would hand out
    wrong values. A counter of FLOPs would count what is no part of the model.

    Example:
        >>> from torch.utils.flop_counter import FlopCounterMode
        >>> with FlopCounterMode(display=False) as counter:
        ...     _ = apart(torch.mm)(torch.ones(2, 3), torch.ones(3, 4))
        >>> counter.get_total_flops()
        0
    """

    @wraps(function)
    def unseen(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch._C._len_torch_dispatch_stack() == 0:
            return function(*args, **kwargs)
        with _disable_current_modes():
            return function(*args, **kwargs)

    return unseen


def without_gradients(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, which records nothing for a backward pass: `torch.no_grad()` in a fifth of its time.

    Example:
        >>> without_gradients(torch.exp)(torch.zeros(1, requires_grad=True))
        tensor([1.])
    """

    @wraps(function)
    def unrecorded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        torch._C._set_grad_enabled(False)
        try:
            return function(*args, **kwargs)
        finally:
            torch._C._set_grad_enabled(True)

    return unrecorded
