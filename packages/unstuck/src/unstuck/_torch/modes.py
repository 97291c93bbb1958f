"""Modes and transforms that are active around the code that runs."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode, handle_torch_function
from torch.utils._python_dispatch import _disable_current_modes

_P = ParamSpec("_P")
_R = TypeVar("_R")
_FOLDER = str(Path(torch.__file__).parent)
_HANDLE = handle_torch_function.__code__
_NEAR = 4
"""Frames between a function of PyTorch and a mode that it calls."""


def transforms_active() -> bool:
    """Whether a transform of `torch.func` (vmap, grad, jvp ...) runs. No public function tells."""
    return torch._C._are_functorch_transforms_active()


def autocast() -> tuple[str, torch.dtype] | None:
    """The device and the dtype of autocast, if it is enabled. The public function takes a microsecond a device."""
    if not torch._C._is_any_autocast_enabled():
        return None
    devices = (device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device))
    return next(((device, torch.get_autocast_dtype(device)) for device in devices), None)


def leave(mode: TorchFunctionMode) -> None:
    """Leave a mode also if others were entered after it. The public `__exit__` leaves the last one, whichever it is."""
    _enter_again([other for other in _left() if other is not mode])


def lower(mode: TorchFunctionMode) -> None:
    """Move an entered mode below the others, so that these can be left, by the public `__exit__`, while it stays.

    That of `torch.set_default_device` has to be the lowest of all.
    """
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    others = [other for other in _left() if other is not mode]
    lowest = [other for other in others if other is default]
    _enter_again([*lowest, mode, *(other for other in others if other is not default)])


def _left() -> list[TorchFunctionMode]:
    """Leave all modes; returns them, the lowest first."""
    count: int = torch._C._len_torch_function_stack()
    return [_pop_mode() for _ in range(count)][::-1]  # type: ignore[no-untyped-call]


def _enter_again(modes: list[TorchFunctionMode]) -> None:
    for mode in modes:
        _push_mode(mode)  # type: ignore[no-untyped-call]


def original(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's function that has called a mode; `function` may be one that the user has put in its place.

    PyTorch's functions name themselves to a mode as `torch.nn.functional.relu`, say, whatever has that name now: the
    user's, which calls PyTorch's, would run once more. No public function tells which one it was.
    """
    code = getattr(function, "__code__", None)
    if code is None or code.co_filename.startswith(_FOLDER):
        return function
    frame = sys._getframe(1)
    for _time in range(_NEAR):
        before = frame.f_back
        if before is None:
            break
        if frame.f_code is _HANDLE:
            own = before.f_code
            return FunctionType(own, before.f_globals) if own.co_filename.startswith(_FOLDER) else function
        frame = before
    return function


def unfollowed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, with its calls hidden from every `TorchFunctionMode`, so that one observer does not follow another.

    No public context manager hides calls from all of them.
    """

    @wraps(function)
    def hidden(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return hidden


def hidden_from_modes(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, with its calls hidden from every `TorchDispatchMode`. No public context manager hides calls.

    Selective activation checkpoints replay the calls that such a mode has recorded, in order: one more call makes them
    return wrong values.
    """

    @wraps(function)
    def hidden(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch._C._len_torch_dispatch_stack() == 0:
            return function(*args, **kwargs)
        with _disable_current_modes():
            return function(*args, **kwargs)

    return hidden
