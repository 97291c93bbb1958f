"""The alarm: notices that the gradient has changed suddenly, between two samples."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

WEIGHTS = 4
"""So many gradients are looked at: a layer that loses the gradient takes it from all before it."""
SUDDEN = math.log(4)
"""The least change, in logarithms, that is sudden. At the start of a training most steps change less."""
NOISE = 3.0
"""A change is sudden if it is this many times the usual one larger: one step in a thousand of a healthy training."""
NEWEST_LEVEL, NEWEST_CHANGE = 0.5, 0.1
"""The shares of the newest step in the usual norms, which fall during a training, and in the usual change."""
QUIET = 10
"""Steps from which the alarm learns what is usual, at the start and after it has rung."""
SMALLEST = 1e-38


class Alarm:
    """Compares the norms of some weights' gradients with what is usual, step by step.

    Args:
        parameters: those of the model; a few matrices and kernels among them are looked at.
        on: whether it ever rings.
    """

    def __init__(self, parameters: Callable[[], Iterable[Tensor]], *, on: bool) -> None:
        self.on = on
        self._parameters = parameters
        self._weights: list[Tensor] = []
        self._pending: Tensor | None = None
        self._usual: list[float] = []  # logarithms of the norms
        self._change = 0.0  # the usual one
        self._quiet = QUIET

    @torch.no_grad()
    def rings(self, *, wait: bool) -> bool:
        """Whether the gradient of this step is far from what is usual.

        On a GPU, that of the step before, so that nothing waits for the device; unless `wait`.
        """
        if self.on and not self._weights:
            self._weights = _spread(self._parameters())
        gradients = [weight.grad for weight in self._weights]
        usable = [g for g in gradients if g is not None and g.layout == torch.strided]
        if not usable or len(usable) < len(gradients):
            return False
        sizes = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in usable]
        norms = torch.stack([size.float() for size in sizes])
        before, self._pending = self._pending, norms
        read = norms if wait or norms.device.type == "cpu" else before
        return read is not None and self._judge(read.tolist())

    def hush(self, steps: int = QUIET) -> None:
        """Ring again after so many steps at the earliest."""
        self._quiet = max(self._quiet, steps)

    def _judge(self, norms: Sequence[float]) -> bool:
        if not all(map(math.isfinite, norms)):
            return False  # the step is skipped, or the training is lost
        logs = [math.log(max(norm, SMALLEST)) for norm in norms]
        usual = self._usual or logs
        change = max(abs(log - before) for log, before in zip(logs, usual, strict=True))
        rings = self._quiet == 0 and change > SUDDEN + NOISE * self._change
        if rings:
            self._quiet = QUIET
        else:
            self._quiet = max(0, self._quiet - 1)
            self._usual = [before + NEWEST_LEVEL * (log - before) for log, before in zip(logs, usual, strict=True)]
            self._change += NEWEST_CHANGE * (change - self._change)
        return rings

    def state_dict(self) -> dict[str, Any]:
        """Numbers."""
        return {"usual": list(self._usual), "change": self._change, "quiet": self._quiet}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._usual = [float(log) for log in state.get("usual", ())]
        self._change, self._quiet = float(state.get("change", 0.0)), int(state.get("quiet", QUIET))
        self._pending = None


def _spread(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Some matrices and kernels with a gradient, from the first to the last, on one device and not in shards."""
    found = [p for p in parameters if p.dim() > 1 and p.grad is not None and not hasattr(p, "to_local")]
    found = [p for p in found if p.device == found[0].device]
    places = {round(i * (len(found) - 1) / (WEIGHTS - 1)) for i in range(WEIGHTS)} if found else set()
    return [found[i] for i in sorted(places)]
