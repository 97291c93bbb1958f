"""What `torch.fx` does not record: the contexts in which a forward makes its calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from sigmoidcore.conversion.tracing import UntraceableError

_DEVICES = ("cpu", "cuda", "mps", "xpu")


class Contexts:
    """Notices that a forward switches gradients or autocast, which a forward written from its graph would not.

    Made in the contexts in which the forward starts.
    """

    def __init__(self) -> None:
        self.grad, self.autocast = torch.is_grad_enabled(), _autocast()

    def check(self) -> None:
        """Raise an UntraceableError if the contexts are others now."""
        if torch.is_grad_enabled() is not self.grad:
            raise UntraceableError("it switches gradients on or off, or checkpoints a part, which a graph does not")
        if _autocast() != self.autocast:
            raise UntraceableError("it switches autocast, which a graph does not")


@contextmanager
def tracing_in(grad: bool, autocast: bool) -> Iterator[None]:
    """Trace with gradients and autocast on or off, and refuse activation checkpoints.

    A forward that switches something to what it is already is not seen to do so; traced once in each state, it is.

    Raises:
        UntraceableError: inside, where a forward uses hooks for saved tensors.
    """
    before, enter = _autocast(), saved_tensors_hooks.__enter__

    def refuse(*_: Any) -> None:
        raise UntraceableError("it checkpoints a part, or has hooks for what is saved for backward")

    saved_tensors_hooks.__enter__ = refuse  # type: ignore[method-assign]
    try:
        with torch.set_grad_enabled(grad):
            for device in _DEVICES:
                torch.set_autocast_enabled(device, autocast)
            yield
    finally:
        saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]
        for device, (enabled, _) in zip(_DEVICES, before, strict=True):
            torch.set_autocast_enabled(device, enabled)


def _autocast() -> list[tuple[bool, torch.dtype]]:
    return [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES]
