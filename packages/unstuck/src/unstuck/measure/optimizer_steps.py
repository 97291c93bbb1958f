"""The steps of optimizers, and the updates of a gradient scaler: a step that it skips reaches no optimizer."""

import threading
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from unstuck._torch.eager import uncompiled

OnStep = Callable[[torch.optim.Optimizer], None]


_LOCK = threading.Lock()
_LISTENERS: list[tuple[weakref.WeakMethod[OnStep], weakref.WeakMethod[OnStep]]] = []


def listen(before: OnStep, after: OnStep) -> None:
    """Call two methods of an object before and after every step of every optimizer, in any thread, while it lives.

    PyTorch's global hooks must not change while a thread runs them, so one before and one after a step stay registered
    from the first listener on.
    """
    _register_hooks()
    with _LOCK:
        living = [listener for listener in _LISTENERS if listener[0]() is not None]
        _LISTENERS[:] = [*living, (weakref.WeakMethod(before), weakref.WeakMethod(after))]


@cache
def _register_hooks() -> None:
    register_optimizer_step_pre_hook(uncompiled(lambda optimizer, *_: _call(0, optimizer)))
    register_optimizer_step_post_hook(uncompiled(lambda optimizer, *_: _call(1, optimizer)))


def _call(which: int, optimizer: torch.optim.Optimizer) -> None:
    for listener in tuple(_LISTENERS):
        method = listener[which]()
        if method is not None:
            method(optimizer)


class _Update:
    """A scaler's `update` that calls listeners first; it replaces the method of one scaler, and not of its copies."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self.scaler = scaler
        self.listeners: list[weakref.WeakMethod[Callable[[], None]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        for method in [listener() for listener in self.listeners]:
            if method is not None:
                method()
        type(self.scaler).update(self.scaler, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.scaler, "update")


def listen_to_updates(scaler: torch.amp.GradScaler, listener: Callable[[], None]) -> Callable[[], None]:
    """Call a method before every `scaler.update()`, as long as its object lives; returns a function that ends this."""
    update = vars(scaler).get("update")
    if not isinstance(update, _Update):
        scaler.update = update = _Update(scaler)  # type: ignore[method-assign]
    reference = weakref.WeakMethod(listener)
    update.listeners.append(reference)

    def stop() -> None:
        update.listeners = [one for one in update.listeners if one is not reference]
        if not update.listeners and vars(scaler).get("update") is update:
            del scaler.update

    return stop


class ModelOptimizers:
    """Finds the optimizers that move a model's parameters as they step.

    The steps of one of them are counted: of the first that steps, until another steps twice without it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._with_state: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._ever_with_state = 0
        self.stepped: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()  # in the step that is measured
        self._moves: weakref.WeakKeyDictionary[torch.optim.Optimizer, bool] = weakref.WeakKeyDictionary()
        self.have_stepped = False  # whether any of them has
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
            moves = self._moves[optimizer] = not moved(optimizer).isdisjoint(map(id, self._model.parameters()))
        return moves

    @property
    def replaced(self) -> int:
        """How many optimizers with a state, such as averages of gradients, are gone."""
        return self._ever_with_state - len(self._with_state)

    def count(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the step of this optimizer, one of the model's, counts."""
        self.have_stepped = True
        if optimizer.state and optimizer not in self._with_state:
            self._with_state.add(optimizer)
            self._ever_with_state += 1
        if self.counting not in (optimizer, None) and optimizer not in self._stepped_once:
            self._stepped_once.add(optimizer)
            return False
        self._stepped_once.clear()
        self._counting = weakref.ref(optimizer)
        return True


def moved(optimizer: torch.optim.Optimizer) -> set[int]:
    """Identities of the parameters that an optimizer moves."""
    return set(groups(optimizer))


class StepGroup(NamedTuple):
    """The settings of a parameter's group in an optimizer."""

    rate: float
    decay: float
    decoupled: bool  # the decay does not go through the gradient


def groups(optimizer: torch.optim.Optimizer) -> dict[int, StepGroup]:
    """The group of each parameter that an optimizer moves, by the parameter's identity."""
    found = {}
    for group in optimizer.param_groups:
        decoupled = group.get("decoupled_weight_decay", not isinstance(optimizer, _COUPLED))
        settings = StepGroup(float(group.get("lr", 0.0)), float(group.get("weight_decay") or 0.0), bool(decoupled))
        found.update({id(parameter): settings for parameter in group["params"]})
    return found


_COUPLED = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta),
    *(torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
)
"""Optimizers whose weight decay is added to the gradient, unless a group says otherwise."""
