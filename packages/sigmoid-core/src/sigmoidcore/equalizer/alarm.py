"""The alarm: notices that the gradient has changed suddenly, between two samples."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sigmoidcore.core import HALF

WEIGHTS = 4  # so many gradients are looked at: a layer that loses the gradient takes it from all before it
SUDDEN, NOISE = math.log(4), 3.0
"""A change, in logarithms, is sudden above SUDDEN plus NOISE times the usual change: one or two steps in a thousand of
a healthy training. The alarm rings at the second such step in a row."""
NEWEST_LEVEL, NEWEST_CHANGE = 0.5, 0.1
"""The shares of the newest step in the usual norms, which fall during a training, and in the usual change."""
EVERY = 2  # steps between two looks, unless a step was sudden: four norms take a hundredth of a narrow network's step
START, QUIET = 15, 5  # looks that learn what is usual: at the start, when all is sudden, and later, after it has rung
SMALLEST = 1e-38


class Alarm:
    """Compares the norms of a few weights' gradients with what is usual: a rise, or one unlike the others is sudden."""

    def __init__(self, parameters: Callable[[], Iterable[Tensor]], *, on: bool) -> None:
        self.on = on
        self._parameters = parameters
        self._weights: list[Tensor] = []
        self._missing = 0  # looks in a row in which one of them had no gradient
        self._pending: Tensor | None = None
        self._usual: list[float] = []  # logarithms of the norms
        self._change = 0.0  # the usual one
        self.quiet, self._steps = START, 0  # looks in which it does not ring
        self.suspects = False  # whether this step was sudden, and not yet the one before: it may be an odd batch

    @torch.no_grad()
    def rings(self, *, wait: bool) -> bool:
        """Whether the gradients of this step and of the one before are far from what is usual.

        On a GPU, those of the look before, so that nothing waits for the device; with `wait`, it looks now.
        """
        self._steps += 1
        if not self.on or not (wait or self.suspects or self._steps % EVERY == 0):
            return False
        suspected, self.suspects = self.suspects, False
        if not self._weights:
            self._weights = self._choose()
        gradients = [p.grad for p in self._weights if p.requires_grad and p.grad is not None]
        if len(gradients) < max(1, len(self._weights)):
            self._missing += 1
            if self._missing >= QUIET:  # one of them may be frozen by now
                self._weights, self._usual, self.quiet = [], [], max(self.quiet, QUIET)
            return False
        self._missing = 0
        if gradients[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return False  # nothing can be read while a CUDA graph is recorded
        sizes = [torch.linalg.vector_norm(g if g.dtype not in HALF else g.float()) for g in gradients]
        if sizes[0].device.type == "cpu":
            return self._judge(list(map(float, sizes)), suspected)
        norms = torch.stack([size.float() for size in sizes])
        read, self._pending = (norms, None) if wait else (self._pending, norms)
        return read is not None and self._judge(read.tolist(), suspected)

    def _choose(self) -> list[Tensor]:
        """Some matrices and kernels with dense gradients, first to last, on one device and not in shards."""
        trained = (p for p in self._parameters() if p.dim() > 1 and p.requires_grad and not hasattr(p, "to_local"))
        found = [p for p in trained if p.grad is not None and p.grad.layout == torch.strided]
        found = [p for p in found if p.device == found[0].device]
        places = {round(i * (len(found) - 1) / (WEIGHTS - 1)) for i in range(WEIGHTS)} if found else set()
        return [found[i] for i in sorted(places)]

    def _judge(self, norms: list[float], suspected: bool) -> bool:
        if not all(map(math.isfinite, norms)):
            return False  # the step is skipped, or the training is lost
        logs = [math.log(max(norm, SMALLEST)) for norm in norms]
        if len(self._usual) != len(logs):
            self._usual = logs
        rises = [log - before for log, before in zip(logs, self._usual, strict=True)]
        common = sum(rises) / len(rises)  # a fall of all alike is what learning does
        change = max(0.0, *rises, *(abs(rise - common) for rise in rises))
        sudden = self.quiet == 0 and change > SUDDEN + NOISE * self._change
        rings, self.suspects = sudden and suspected, sudden and not suspected
        if rings:
            self.quiet = QUIET
        elif not sudden:
            self.quiet = max(0, self.quiet - 1)
            self._usual = [before + NEWEST_LEVEL * rise for before, rise in zip(self._usual, rises, strict=True)]
            self._change += NEWEST_CHANGE * (change - self._change)
        return rings

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of numbers."""
        numbers = {"usual": list(self._usual), "change": self._change, "quiet": self.quiet, "steps": self._steps}
        pending = None if self._pending is None else self._pending.tolist()
        return {**numbers, "suspects": self.suspects, "pending": pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._usual, self._change = list(state["usual"]), float(state["change"])
        self.quiet, self._steps = int(state["quiet"]), int(state["steps"])
        self._pending = None if state["pending"] is None else torch.tensor(state["pending"])
        self.suspects = bool(state["suspects"])
