"""Hear of every step that a gradient scaler makes or skips: a skipped one never reaches the optimizer."""

from collections.abc import Callable
from typing import Any

import torch


class Updates:
    """A scaler's `update`, which tells those who listen first, and then does what it always does.

    It takes the place of the method in the scaler itself. A copy of the scaler, and what is unpickled of it, has the
    method of its class.
    """

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler
        self._listeners: dict[int, Callable[[], None]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Tell, and update."""
        for listener in list(self._listeners.values()):
            listener()
        type(self._scaler).update(self._scaler, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """As the method of the scaler that is copied."""
        return getattr, (self._scaler, "update")

    def add(self, listener: Callable[[], None]) -> None:
        """Have this called before every update."""
        self._listeners[id(listener)] = listener

    def remove(self, listener: Callable[[], None]) -> None:
        """Do not call it any more; the last one leaves the scaler as it was."""
        self._listeners.pop(id(listener), None)
        if not self._listeners and self._scaler.__dict__.get("update") is self:
            del self._scaler.update


def listen(scaler: torch.amp.GradScaler, listener: Callable[[], None]) -> Callable[[], None]:
    """Have a function called before every `scaler.update()`; returns the function that ends this.

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
    updates = scaler.__dict__.get("update")
    if not isinstance(updates, Updates):
        updates = Updates(scaler)
        scaler.update = updates  # type: ignore[method-assign]
    updates.add(listener)
    return lambda: updates.remove(listener)


def attempted(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer | None) -> bool:
    """Whether `scaler.step` was called since the last update, with this optimizer, or with any if it is None."""
    states = getattr(scaler, "_per_optimizer_states", None)
    if states is None:
        return True
    chosen = list(states.values()) if optimizer is None else [states[id(optimizer)]] if id(optimizer) in states else []
    return any(getattr(state.get("stage"), "name", "") == "STEPPED" for state in chosen)
