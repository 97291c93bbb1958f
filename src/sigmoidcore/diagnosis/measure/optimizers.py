"""The optimizers of one model: which ones move its parameters, and whose steps are counted."""

import weakref

import torch
from torch import nn


class Optimizers:
    """Finds the optimizers that move a model's parameters as they step.

    The steps of one of them are counted: of the first that steps, until another steps twice without it.

    Args:
        model: the model.

    Attributes:
        stepped: those that have stepped in the step that is being measured.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.stepped: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._ours: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._others: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._meanwhile: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._counting: weakref.ref[torch.optim.Optimizer] | None = None

    @property
    def counting(self) -> torch.optim.Optimizer | None:
        """The one whose steps are counted."""
        return None if self._counting is None else self._counting()

    def are_ours(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer moves any of the model's parameters."""
        if optimizer in self._ours or optimizer in self._others:
            return optimizer in self._ours
        own = {id(p) for p in self._model.parameters()}
        moves = any(id(p) in own for group in optimizer.param_groups for p in group["params"])
        (self._ours if moves else self._others).add(optimizer)
        return moves

    def count(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the step of this optimizer, one of the model's, counts."""
        counting = self.counting
        if counting is not optimizer and counting is not None and optimizer not in self._meanwhile:
            self._meanwhile.add(optimizer)
            return False
        self._meanwhile.clear()
        if counting is not optimizer:
            self._counting = weakref.ref(optimizer)
        return True
