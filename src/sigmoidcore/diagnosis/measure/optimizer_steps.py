"""The steps of a model's optimizers."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sigmoidcore._torch.eager import uncompiled

OnStep = Callable[[torch.optim.Optimizer], None]


class OptimizerSteps:
    """Calls listeners before and after every step of every optimizer, in any thread.

    PyTorch's global hooks must not change while a thread runs them. So one hook before and one after a step stay
    registered from the first listener on, and the tuple of listeners is replaced, not changed.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a listener may be collected, and so end, while another begins
        self._listeners: tuple[tuple[OnStep, OnStep], ...] = ()
        self._registered = False

    def listen(self, before: OnStep, after: OnStep) -> Callable[[], None]:
        """Call functions before and after every step; returns the function that ends this.

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


listen = OptimizerSteps().listen


class ModelOptimizers:
    """Finds the optimizers that move a model's parameters as they step.

    The steps of one of them are counted: of the first that steps, until another steps twice without it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.stepped: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()  # in the step that is measured
        self._moves: weakref.WeakKeyDictionary[torch.optim.Optimizer, bool] = weakref.WeakKeyDictionary()
        self._stepped_once: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._counting: weakref.ref[torch.optim.Optimizer] | None = None

    @property
    def counting(self) -> torch.optim.Optimizer | None:
        """The optimizer whose steps are counted."""
        return None if self._counting is None else self._counting()

    def __contains__(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer moves any of the model's parameters."""
        moves = self._moves.get(optimizer)
        if moves is None:
            moves = not moved(optimizer).isdisjoint(map(id, self._model.parameters()))
            self._moves[optimizer] = moves
        return moves

    def count(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the step of this optimizer, one of the model's, counts."""
        if self.counting not in (optimizer, None) and optimizer not in self._stepped_once:
            self._stepped_once.add(optimizer)
            return False
        self._stepped_once.clear()
        self._counting = weakref.ref(optimizer)
        return True


def moved(optimizer: torch.optim.Optimizer) -> set[int]:
    """Identities of the parameters that an optimizer moves."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
