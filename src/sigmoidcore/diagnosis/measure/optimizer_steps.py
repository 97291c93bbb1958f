"""Hear of every step of every optimizer, in whichever thread it is made."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sigmoidcore._torch.eager import uncompiled

OnStep = Callable[[torch.optim.Optimizer], None]


class Steps:
    """Tells those who listen.

    While PyTorch goes through its hooks for all optimizers in one thread, none may come or go in another. So there is
    one before and one after a step, from the first listener on, and they stay. Who listens is a tuple that is replaced
    and never changed.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a listener may be collected, and so end, while another begins
        self._listeners: tuple[tuple[OnStep, OnStep], ...] = ()
        self._registered = False

    def listen(self, before: OnStep, after: OnStep) -> Callable[[], None]:
        """Have functions called before and after every step; returns the function that ends this.

        Example:
            >>> stop = listen(lambda _: print("before"), lambda _: print("after"))
            >>> torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]).step()
            before
            after
            >>> stop()
        """
        listener = before, after
        with self._lock:
            if not self._registered:
                register_optimizer_step_pre_hook(uncompiled(self._before))
                register_optimizer_step_post_hook(uncompiled(self._after))
                self._registered = True
            self._listeners = (*self._listeners, listener)
        return lambda: self._end(listener)

    def _end(self, listener: tuple[OnStep, OnStep]) -> None:
        with self._lock:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for before, _ in self._listeners:
            before(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for _, after in self._listeners:
            after(optimizer)


_STEPS = Steps()
listen = _STEPS.listen
