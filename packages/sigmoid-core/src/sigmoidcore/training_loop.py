"""The training loop of the estimators, the demo and the lab: steps, epochs, and a rate that falls at the end."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.equalizer.equalizer import Equalizer
from unstuck.observation.sizes import norms

Loss = Callable[..., Tensor]
Batch = tuple[Any, ...]  # inputs, [batch, ...], then targets and whatever else the loss takes


class Schedule:
    """Keeps the peak rate until nothing improves, then lets the rate fall to 0.

    The criterion is scikit-learn's: `patience` epochs without an improvement by `tol`. The rate falls linearly, over
    as many epochs as it stayed at its peak; the fall begins after half of the epochs at the latest. Training ends if
    nothing improves during the fall.
    """

    def __init__(self, epochs: int, tol: float = 0.0, patience: float = math.inf) -> None:
        self.epochs, self.tol, self.patience = epochs, tol, patience
        self.finished = False
        self._best = math.inf
        self._epoch = 0
        self._unimproved = 0
        self._begin, self._end = epochs / 2, float(epochs)

    def share(self, done: float = 0.0) -> float:
        """The rate as a fraction of its peak, if this fraction of the epoch is done."""
        return min(1.0, max(0.0, (self._end - (self._epoch + done)) / (self._end - self._begin)))

    def after_epoch(self, value: float) -> None:
        """Record the value that an epoch has reached; lower is better."""
        self._epoch += 1
        self._unimproved = self._unimproved + 1 if value > self._best - self.tol else 0
        self._best = min(self._best, value)
        if self._epoch - 1 < self._begin <= self._epoch:  # the fall begins: count from here
            self._unimproved = 0
        if self._unimproved > self.patience:
            if self._epoch < self._begin:
                self._begin, self._end = self._epoch, min(2.0 * self._epoch, self.epochs)
                self._unimproved = 0
            else:
                self.finished = True
        self.finished |= self._epoch >= self._end


class Training:
    """The training of a network, by an optimizer whose groups have the peak rates.

    `loss_fn(outputs, *rest)` returns the scalar loss of a batch `(inputs, *rest)`. `run` removes the Equalizer at the
    end; without one, slopes stay as they are.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Loss, optimizer: torch.optim.Optimizer, equalizer: Equalizer | None = None
    ) -> None:
        self.model, self.loss_fn, self.optimizer, self.equalizer = model, loss_fn, optimizer, equalizer
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, inputs: Tensor, *rest: Any, share: float = 1.0) -> Tensor:
        """One step on a batch, at this share of the peak rates; returns the loss, a 0-dim tensor."""
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.model(inputs), *rest)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def run(
        self,
        batches: Callable[[], Iterable[Batch]],
        samples: int,
        schedule: Schedule,
        on_epoch: Callable[[float], float] = lambda loss: loss,
    ) -> None:
        """Train until the schedule ends; `samples` are in the batches of an epoch.

        `on_epoch` is called with the mean loss after every epoch; it returns the value that the schedule judges.

        Raises:
            FloatingPointError: after an epoch, its loss or a weight is not finite.
        """
        try:
            while not schedule.finished:
                self.model.train()
                total, done = torch.zeros((), device=next(self.model.parameters()).device), 0
                for inputs, *rest in batches():
                    loss = self.step(inputs, *rest, share=schedule.share(done / samples))
                    total += loss * len(inputs)
                    done += len(inputs)
                if not bool(norms([total, *(p.detach() for p in self.model.parameters())]).isfinite().all()):
                    raise FloatingPointError("the loss or a weight is not finite")
                schedule.after_epoch(on_epoch(float(total) / samples))
        finally:
            if self.equalizer is not None:
                self.equalizer.remove()


def adamw(model: nn.Module, lr: float = 0.03, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW by the depth rule; `lr` is the total rate of `sigmoidcore.depth_scaled_lr`."""
    return torch.optim.AdamW(depth_scaled_lr(model, lr), weight_decay=weight_decay, fused=True)


@contextmanager
def narrow_layers() -> Iterator[None]:
    """Settings of PyTorch for layers of some tens of neurons on a CPU: one thread, and denormal numbers become 0.

    Two threads would mostly wait for each other. Some vanished gradients are denormal, and a CPU may be slow on them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
