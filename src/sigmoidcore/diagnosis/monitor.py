"""Monitor: watch a whole training, a step now and then, with bounded memory."""

import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from sigmoidcore._torch.autograd import NONE, backward_pass
from sigmoidcore.diagnosis.diagnosis import Diagnosis, judged
from sigmoidcore.diagnosis.judgement import Subject
from sigmoidcore.diagnosis.measure import optimizer_steps
from sigmoidcore.diagnosis.measure.history import Thinned
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.measure.optimizers import Optimizers
from sigmoidcore.diagnosis.measure.probe import Probe, scripted
from sigmoidcore.diagnosis.measure.skipped_steps import attempted, listen
from sigmoidcore.equalizer.checks import check_model, check_steps, checked_sinks
from sigmoidcore.observation.process_group import Ranks

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

    A step that a gradient scaler skips is not measured, nor is one whose gradients are emptied before an optimizer has
    used them. Only the tenth of them in a row is: a network whose gradients are never finite would else not be seen.

    Memory is bounded: when `keep` measurements are there, every second one is dropped, and later ones are kept half as
    often.

    Args:
        model: any module.
        every: measure one step of so many.
        keep: measurements that are kept at most, evenly over the whole training; the latest is always among them.
        scaler: the `torch.amp.GradScaler` of the training, if there is one: sizes of gradients are then unscaled, and
            steps that it skips are noticed.
        process_group: the ranks that train this model together; default: all, where `torch.distributed` is initialized.
        sinks: are called with every new `Measurement`; see `sigmoidcore.integrations.sinks`.

    Raises:
        TypeError: the model is none, or a sink is no function of one argument.
        ValueError: `every` or `keep` is too small, the model has no parameters, or this process does not belong to
            `process_group`.

    Warns:
        RuntimeWarning: ten steps in a row were to be measured, and no gradient came back to the model.

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
        sinks: Iterable[Callable[[Measurement], object]] = (),
    ) -> None:
        check_model(model)
        check_steps("every", every)
        if type(keep) is not int or keep < 4:
            raise ValueError(f"keep must be a number of measurements of at least 4, got {keep!r}")
        if next(model.parameters(), None) is None:
            raise ValueError("the model has no parameters: nothing of it is trained")
        self.model = model
        self.every = every
        self.keep = keep
        self._measured = Thinned(keep)
        self._sinks = checked_sinks(sinks)
        self._ranks = Ranks(process_group)
        self._scaler = scaler
        self._step = 0
        self._skipped = 0
        self._unseen = 0
        self._optimizers = Optimizers(model)
        self._stepping = False
        self._stepped: int | None = None
        self._called = False
        # What hears of all optimizers' steps, and the probe's hooks, would keep a monitor alive that nobody else has.
        me = weakref.ref(self)
        self._probe = Probe(
            model,
            most=SAMPLES,
            ranks=self._ranks,
            begins=_weakly(me, Monitor._before_forward),
            dropped=_weakly(me, Monitor._count_skipped),
        )
        handles = [
            optimizer_steps.listen(_weakly(me, Monitor._before_step), _weakly(me, Monitor._after_step)),
            self._probe.detach,
        ]
        if scaler is not None:
            handles.append(listen(scaler, _weakly(me, Monitor._before_update)))
        self._remove = weakref.finalize(self, _call, handles)
        self._remove.atexit = False
        self._probe.attach()

    @property
    def measurements(self) -> list[Measurement]:
        """By step, the latest last."""
        self._take_what_is_over()
        return self._measured.kept

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

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on later: the step, and what was measured, in numbers and texts only."""
        self._take_what_is_over()
        return {"step": self._step, "measurements": self._measured.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: the state is not one of a Monitor; nothing is changed then.
        """
        step = state.get("step")
        if type(step) is not int or step < 0:
            raise ValueError(f"this is no state of a Monitor: its step is {step!r}")
        self._measured.load_state_dict(state.get("measurements"))
        self._step = step
        self._probe.detach()
        self._start_over()
        self._attach_if_due()

    def remove(self) -> None:
        """Stop watching; what was measured stays."""
        if self._remove.alive:
            self._take_what_is_over()
        self._remove()
        self._probe.forget()
        self._probe.weights.room.clear()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        if error is not None:
            self._stepped = None  # half a step
        self.remove()

    def _before_forward(self) -> None:
        """A forward pass begins: whatever belongs to the last step has happened."""
        if self._stepped is not None:
            self._take()
        elif self._stepping:  # in a closure: its last evaluation counts
            if self._probe.emptied():
                self._probe.forget()
        elif self._optimizers.stepped:  # another than the one that counts
            self._probe.start_over()
            self._optimizers.stepped.clear()
        elif self._probe.emptied() or (self._probe.seen and self._skipped >= PATIENCE - 1):
            self._skip()

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._probe.attached and self._optimizers.are_ours(optimizer):
            self._stepping = True
            self._probe.weights.before_step(_moved(optimizer), in_backward=backward_pass() != NONE)

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._optimizers.are_ours(optimizer):
            return
        self._stepping = False
        counts = self._optimizers.count(optimizer)
        self._called = self._called or counts
        if self._probe.attached:
            if bool(getattr(optimizer, "found_inf", False)):  # a fused optimizer skips the step by itself
                if counts:
                    self._skip()
                return
            self._probe.weights.after_step(_moved(optimizer))
            self._optimizers.stepped.add(optimizer)
        if counts:
            self._stepped = self._step if self._probe.attached else None
            self._step += 1
            self._skipped = 0
        if self._stepped is not None and backward_pass() == NONE:
            self._take_if_whole()
        elif counts:
            self._attach_if_due()

    def _before_update(self) -> None:
        """The scaler has stepped, or not."""
        assert self._scaler is not None
        if not self._called and attempted(self._scaler, self._optimizers.counting):
            self._skip()
        self._called = False

    def _count_skipped(self) -> None:
        self._skipped += 1

    def _skip(self) -> None:
        """No optimizer has used the gradients that were seen."""
        self._count_skipped()
        if self._probe.attached and self._skipped >= PATIENCE and (self._scaler is not None or self._ranks.count == 1):
            if self._all(self._probe.seen):
                self._keep(f"{self._skipped} steps in a row were skipped; this is the last of them")
        elif self._probe.attached:
            self._probe.forget()
        elif self._skipped == PATIENCE - 1:
            self._probe.attach()

    def _take_if_whole(self) -> None:
        """Measure the step, unless other optimizers have parameters to move yet; they do before the next forward pass.

        All ranks decide alike, for they sum up what they have seen.
        """
        if not self._all(self._probe.seen):
            self._unseen += 1
            self._stepped = None
            self._optimizers.stepped.clear()
            self._probe.start_over()
            if self._unseen == PATIENCE:
                warnings.warn(_unseen(self.model), RuntimeWarning, stacklevel=2)
            if self._unseen >= PATIENCE:
                self._probe.detach()
                self._attach_if_due()
        elif self._all(self._probe.weights.moved):
            self._take()

    def _take_what_is_over(self) -> None:
        """Measure a step that waits for other optimizers, where no rank has to agree."""
        if self._stepped is not None and self._ranks.count == 1:
            self._take()

    def _take(self) -> None:
        self._keep()
        self._attach_if_due()

    def _keep(self, *notes: str) -> None:
        scale = float(self._scaler.get_scale()) if self._scaler is not None else 1.0
        step = self._step if self._stepped is None else self._stepped
        measurement = self._probe.conclude(step=step, scale=scale)
        measurement = replace(measurement, notes=(*measurement.notes, *notes))
        self._measured.add(measurement)
        self._start_over()
        for sink in self._sinks:
            sink(measurement)

    def _start_over(self) -> None:
        self._stepped = None
        self._unseen = 0
        self._optimizers.stepped.clear()
        self._probe.forget()

    def _attach_if_due(self) -> None:
        if self._step % self.every == 0:
            self._probe.attach()
        else:
            self._probe.weights.room.clear()

    def _all(self, flag: bool) -> bool:
        return self._ranks.all(flag, next(self.model.parameters()).device)


_UNSEEN = (
    f"{PATIENCE} steps in a row were to be measured, and no gradient came back to the model: the Monitor measures "
    "nothing. "
)


def _unseen(model: nn.Module) -> str:
    """Why that may be."""
    names = scripted(model)
    if names:
        return f"{_UNSEEN}It does not see into TorchScript ({', '.join(names)}): give it the modules as they are"
    return (
        f"{_UNSEEN}It sees forward passes that run module by module and whose gradients come from backward(): not "
        "those inside transforms of torch.func or replayed CUDA graphs, and not those of a copy of the model. Give it "
        "the very model that trains"
    )


def _weakly(me: "weakref.ref[Monitor]", method: Callable[..., None]) -> Callable[..., None]:
    """The method, as long as the monitor is there."""

    def call(*args: Any) -> None:
        monitor = me()
        if monitor is not None:
            method(monitor, *args)

    return call


def _moved(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _call(functions: list[Callable[[], Any]]) -> None:
    for function in functions:
        function()
