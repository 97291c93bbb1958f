"""Monitor: watch a whole training, a step now and then, with bounded memory."""

import weakref
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sigmoidcore.diagnosis.diagnosis import Diagnosis, Subject, judged
from sigmoidcore.diagnosis.measurement import Measurement
from sigmoidcore.diagnosis.probe import Probe
from sigmoidcore.eager import uncompiled
from sigmoidcore.ranks import Ranks

SAMPLES = 64
"""Samples of a batch that statistics across samples are taken from; sizes and counts are those of all."""
PATIENCE = 10
"""Steps in a row that were to be measured and that the optimizer skipped, after which one is measured all the same."""


class Monitor:
    """Measures a training, step by step as it is, every so many steps; nothing is computed twice.

    It finds the optimizer's steps by itself. A step that is not sampled costs nothing: hooks are in place for sampled
    steps only, and their statistics stay on the device until the step is over. Gradients of several micro-batches are
    joined; those of parameters are read when the backward pass is over, before anything clips them, and are unscaled.
    With `torch.compile` sampled steps run uncompiled and all others compiled. Across the ranks of `torch.distributed`
    numbers are those of all ranks together.

    Memory is bounded: when `keep` measurements are there, every second one is dropped, and later ones are kept half as
    often.

    Args:
        model: any module.
        every: measure one step of so many.
        keep: measurements that are kept at most, evenly over the whole training; the latest is always among them.
        scaler: the `torch.amp.GradScaler` of the training, if there is one.
        process_group: the ranks that train this model together; default: all, where `torch.distributed` is initialized.

    Attributes:
        measurements: by step, the latest last.

    Raises:
        ValueError: `every` or `keep` is too small, the model has no parameters, or this process does not belong to
            `process_group`.

    Example:
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with sc.Monitor(model, every=2) as monitor:
        ...     for _ in range(5):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(100, 8)).square().mean().backward()
        ...         optimizer.step()
        >>> [m.step for m in monitor.measurements]
        [0, 2, 4]
        >>> monitor.diagnosis().healthy
        True
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 100,
        *,
        keep: int = 64,
        scaler: torch.amp.GradScaler | None = None,
        process_group: "torch.distributed.ProcessGroup | None" = None,
    ) -> None:
        if type(every) is not int or every < 1:
            raise ValueError(f"every must be a number of steps of at least 1, got {every!r}")
        if type(keep) is not int or keep < 4:
            raise ValueError(f"keep must be a number of measurements of at least 4, got {keep!r}")
        if next(model.parameters(), None) is None:
            raise ValueError("the model has no parameters: nothing of it is trained")
        self.model = model
        self.every = every
        self.keep = keep
        self.measurements: list[Measurement] = []
        self._ranks = Ranks(process_group)
        self._probe = Probe(model, most=SAMPLES, ranks=self._ranks)
        self._scaler = scaler
        self._step = 0
        self._skipped = 0
        self._stride = 1
        self._taken = 0
        self._watched: weakref.ref[torch.optim.Optimizer] | None = None
        self._others: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        # PyTorch's hooks on all optimizers would keep a monitor alive that nobody else has any more.
        me = weakref.ref(self)

        def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            monitor = me()
            if monitor is not None:
                monitor._before_step(optimizer, args, kwargs)

        def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            monitor = me()
            if monitor is not None:
                monitor._after_step(optimizer)

        handles = [
            register_optimizer_step_pre_hook(uncompiled(before)),
            register_optimizer_step_post_hook(uncompiled(after)),
        ]
        self._remove = weakref.finalize(self, _remove, handles)
        self._remove.atexit = False
        self._probe.attach()

    def diagnosis(self) -> Diagnosis:
        """What the rules say of the training so far.

        Raises:
            ValueError: nothing was measured yet.
        """
        if not self.measurements:
            raise ValueError(
                "no step was measured yet: call the model's forward pass, backward() and the optimizer's step() first"
            )
        return judged(self.measurements, Subject(self.model))

    def remove(self) -> None:
        """Stop watching; what was measured stays."""
        self._remove()
        self._probe.detach()
        self._probe.forget()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self.remove()

    def _is_ours(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer is the one that counts: the first that moves any of the model's parameters."""
        if self._watched is not None and self._watched() is optimizer:
            return True
        if optimizer in self._others:
            return False
        own = {id(p) for p in self.model.parameters()}
        moves = any(id(p) in own for group in optimizer.param_groups for p in group["params"])
        if moves and (self._watched is None or self._watched() is None):
            self._watched = weakref.ref(optimizer)
            return True
        self._others.add(optimizer)
        return False

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._probe.attached and self._is_ours(optimizer):
            self._probe.weights.before_step({id(p) for group in optimizer.param_groups for p in group["params"]})

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._is_ours(optimizer):
            return
        if self._probe.attached and self._probe.seen:
            self._probe.weights.after_step()
            self._take()
        self._step += 1
        if self._step % self.every == 0:
            self._probe.attach()

    def _take(self) -> None:
        scale = float(self._scaler.get_scale()) if self._scaler is not None else 1.0
        measurement = self._probe.conclude(step=self._step, scale=scale)
        if self._taken % self._stride and self.measurements:
            self.measurements[-1] = measurement  # the latest is always there, the one before it only if it is due
        else:
            self.measurements.append(measurement)
        self._taken += 1
        if len(self.measurements) > self.keep:
            self.measurements = [*self.measurements[:-1:2], self.measurements[-1]]
            self._stride *= 2


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
