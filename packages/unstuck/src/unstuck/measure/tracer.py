"""Finds the step of a training whose gradients are not finite, and the operation that made the first such number."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from unstuck.language import _
from unstuck.measure.origin import origin_on_tape
from unstuck.measure.tape import Tape

TRIES = 3
"""Steps that are repeated without a result, after which no other is."""


class Tracer:
    """Looks at the gradients before every step; the first that are not finite have the step repeated from its tape.

    Attributes:
        found: the sentence about the operation.
        found_in: the step that it was found in.
    """

    def __init__(self, model: nn.Module) -> None:
        self.found: str | None = None
        self.found_in: int | None = None
        self._tries = 0
        self._tape = Tape(model)
        self._tape.attach()

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Record a forward pass that has begun."""
        self._tape.begin(module, args)

    def before_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to step."""
        if not self._tape.attached:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # A gradient scaler makes the steps of some optimizers, and has them skip those with overflows.
        if not self._tape.empty and not getattr(optimizer, "found_inf", None) and not _finite(gradients):
            self._tries += 1
            sentence = origin_on_tape(self._tape)
            if sentence is not None:
                self.found, self.found_in = _("In step {step:,}, {origin}", step=step, origin=sentence), step
            if sentence is None and self._tries < TRIES:
                self._tape.attach()
        self._tape.forget()

    def after_step(self) -> None:
        """An optimizer has stepped: what it ran itself, in a closure, had other weights."""
        self._tape.forget()

    def stop(self) -> None:
        """Look no further."""
        self._tape.detach()


def _finite(gradients: list[Tensor]) -> bool:
    """Whether all numbers are finite; their norm may not be, because it overflows."""
    dense = [g.coalesce().values() if g.is_sparse else g.detach() for g in gradients]
    return bool(get_total_norm(dense).isfinite()) or all(bool(g.isfinite().all()) for g in dense)
