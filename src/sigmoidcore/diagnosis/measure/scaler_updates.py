"""The updates of a gradient scaler: a step that it skips never reaches the optimizer."""

from collections.abc import Callable
from typing import Any

import torch


class _Update:
    """A scaler's `update` that calls listeners first; it replaces the method of one scaler, and not of its copies."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler
        self.listeners: dict[int, Callable[[], None]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        for listener in list(self.listeners.values()):
            listener()
        type(self._scaler).update(self._scaler, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._scaler, "update")


def listen(scaler: torch.amp.GradScaler, listener: Callable[[], None]) -> Callable[[], None]:
    """Call a function before every `scaler.update()`; returns the function that ends this.

    Example:
        >>> scaler = torch.amp.GradScaler("cpu")
        >>> stop = listen(scaler, lambda: print("a step is over"))
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
        >>> scaler.scale(optimizer.param_groups[0]["params"][0].sum()).backward()
        >>> scaler.step(optimizer)
        >>> scaler.update()
        a step is over
        >>> stop()
        >>> "update" in vars(scaler)
        False
    """
    update = vars(scaler).get("update")
    if not isinstance(update, _Update):
        update = _Update(scaler)
        scaler.update = update  # type: ignore[method-assign]
    update.listeners[id(listener)] = listener

    def stop() -> None:
        update.listeners.pop(id(listener), None)
        if not update.listeners and vars(scaler).get("update") is update:
            del scaler.update

    return stop
