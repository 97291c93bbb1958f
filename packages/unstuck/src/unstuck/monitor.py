"""Monitor: watch a whole training, one step in many, with bounded memory."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self
from weakref import WeakSet, ref

import torch
from torch import nn

from unstuck._torch.autograd import NONE, backward_pass
from unstuck._torch.grad_scaler import stepped
from unstuck._torch.hooks import stepping
from unstuck.diagnosis import Diagnosis, judged
from unstuck.language import _
from unstuck.language.warning import warn
from unstuck.measure.again import Again
from unstuck.measure.history import History
from unstuck.measure.measurement import Measurement, Subject
from unstuck.measure.optimizer_steps import ModelOptimizers, groups, listen, listen_to_updates, moved
from unstuck.measure.probe import Probe
from unstuck.names import callers_names
from unstuck.observation.batch import check_model, checked_sinks
from unstuck.observation.process_group import Ranks
from unstuck.rules.question import answers
from unstuck.step import state
from unstuck.step.nonfinite import NonfiniteSearch
from unstuck.trials import Recording, verdict

SAMPLES = 64
"""Samples of a batch that statistics across samples are taken from; sizes and counts are those of all."""
PATIENCE = 10
"""Skipped steps in a row after which one is measured all the same."""
FEWEST_TRAINED = 10
"""Steps after which an input has an effect, although weights may start at 0."""
FEWEST_PASSES = 3
"""Forward and backward passes without a step that are a training; fewer are tries."""


class Monitor:
    """Measures a training: one step in every so many, without changing or repeating it.

    It finds the optimizer's steps by itself. Only sampled steps have hooks: the others cost nothing. Micro-batches are
    joined; of more than 16 forward passes before a loss, as of an episode, the first 16. Gradients of parameters are
    unscaled and not clipped. With `torch.compile`, sampled steps run uncompiled.
    Under `torch.distributed`, numbers are those of all ranks together.

    Steps that a gradient scaler skips, or whose gradients are emptied before an optimizer uses them, are not measured.
    After ten of them in a row, one is measured all the same: it shows gradients that are never finite. If 32 forward
    passes before the first step have no backward pass, as those of an agent that collects experience, the first step is
    not measured. Weights that are moved by hand while their gradients stay are a step, too.

    Memory is bounded: from `keep` measurements on, every second one is dropped and later ones are kept half as often.

    Args:
        model: any module.
        every: measure one step of so many.
        keep: largest number of measurements, evenly over the training; the latest is always among them.
        trace_nonfinite: before every step of an optimizer, look whether the gradients are finite. At the first that is
            not, repeat this step and name the operation that made the first inf or NaN, in US401. Costs a norm of the
            gradients at every step; compiled code runs uncompiled. In one process only.
        trials: record the measured steps and keep the latest four, with copies of their batches and of the first
            weights, so that `diagnosis` can train them again: as they were, and with an edit for each finding. In one
            process only.
        scaler: the `torch.amp.GradScaler` of the training; None: it is found at the first step that it makes.
        process_group: the ranks that train this model together; default: all, where `torch.distributed` is initialized.
        sinks: are called with every new `Measurement`.

    Attributes:
        recording: the steps that trials train again; None if it does not record.

    Raises:
        TypeError: the model is not an nn.Module, or a sink is not a function of one argument.
        ValueError: `every` or `keep` is too small, the model has no parameters, this process does not belong to
            `process_group`, or `trace_nonfinite` with several processes.

    Warns:
        RuntimeWarning: in ten measured steps in a row, no gradient reached the model.

    Example:
        >>> import unstuck
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with unstuck.Monitor(model, every=2) as monitor:
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
        trace_nonfinite: bool = False,
        trials: bool = False,
        scaler: torch.amp.GradScaler | None = None,
        process_group: "torch.distributed.ProcessGroup | Ranks | None" = None,
        sinks: Iterable[Callable[[Measurement], object]] = (),
    ) -> None:
        check_model(model)
        for name, number, least in (("every", every, 1), ("keep", keep, 4)):
            if type(number) is not int or number < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}")
        if next(model.parameters(), None) is None:
            raise ValueError("the model has no parameters: nothing of it is trained")
        self.model = model
        self._names = callers_names(model=model)
        self.every = every
        self.keep = keep
        self._history = History(keep)
        self._sinks = checked_sinks(sinks)
        self._ranks = process_group if isinstance(process_group, Ranks) else Ranks(process_group)
        if trace_nonfinite and self._ranks.count > 1:
            raise ValueError("trace_nonfinite works in one process only: the others would wait for the repeated step")
        self._nonfinite = NonfiniteSearch(model) if trace_nonfinite else None
        self._may_record = self._ranks.count == 1
        self.recording = Recording(model) if trials and self._may_record else None
        self._step = 0
        self._first: dict[str, ref[nn.Parameter]] = {}
        self._without_gradient = 0
        self._foreign_steps = 0
        self._optimizers = ModelOptimizers(model)
        self._seen: WeakSet[torch.optim.Optimizer] = WeakSet()  # all that made a step, of whatever model
        self._in_step = False
        self._may_be_by_hand = self._ranks.count == 1
        self._discarded = 0  # passes before the step that is running
        self._stepped: int | None = None
        self._scaled: float | None = None  # what losses of the measured step were multiplied by
        self._counted = False
        self._probe = Probe(model, most=SAMPLES, ranks=self._ranks, begins=self._before_forward)
        self._probe.looks_ahead = self.recording is not None
        self._watches = True
        listen(self._before_step, self._after_step)
        self._stop_listening: Callable[[], None] = lambda: None
        self._listen_to(scaler)
        self._probe.attach()

    @property
    def measurements(self) -> list[Measurement]:
        """By step, the latest last."""
        self._take_finished()
        return self._history.measurements

    def diagnosis(self, seconds: float | None = None) -> Diagnosis:
        """The diagnosis of the training so far.

        Args:
            seconds: that the trials may take, about, if the Monitor records; None: ten.

        Raises:
            ValueError: nothing was measured yet.
        """
        self._take_unused()
        if not self.measurements:
            raise ValueError(
                "no step was measured yet: call the model's forward pass, backward() and the optimizer's step(), or "
                "count_step() if you change the weights by hand"
            )
        measurements, time = list(self.measurements), verdict.SECONDS if seconds is None else seconds
        missing = _("use Monitor(trials=True)") if self.recording is None and self._may_record else ""
        if self.recording is not None and self.recording.steps:
            trained = (measurements[-1].step or 0) >= FEWEST_TRAINED
            *earlier, last = self.recording.steps
            found = answers(Again(last, state(self.model), trained, earlier, self.recording.values))
            measurements[-1] = replace(measurements[-1], answers=found)
        diagnosis = judged(measurements, Subject(self.model, names=self._names), self.recording, time, missing)
        return replace(diagnosis, steps=self._step)

    def count_step(self) -> None:
        """Count a step that no optimizer makes, because the weights are changed by hand; call it between two steps."""
        self._may_be_by_hand = False  # the caller knows
        self._count_step()

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Measure a forward pass that has begun: for a hook before a module of the model that makes the Monitor."""
        self._probe.begin(module, args)
        if self._nonfinite is not None:
            self._nonfinite.begin(module, args)

    def state_dict(self) -> dict[str, Any]:
        """The step and the measurements, in numbers, texts, lists and dicts only."""
        self._take_finished()
        return {"step": self._step, "measurements": self._history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: the state is not that of a Monitor; nothing is changed then.
        """
        step = state.get("step")
        if type(step) is not int or step < 0:
            raise ValueError(f"this is not the state of a Monitor: its step is {step!r}")
        self._history.load_state_dict(state.get("measurements"))
        self._step = step
        self._probe.detach()
        self._start_over()
        self._attach_if_due()

    def remove(self) -> None:
        """Stop measuring; the measurements stay."""
        if self._watches:
            self._take_finished()
            self._take_unused()
        self._watches = False
        self._stop_listening()
        self._probe.detach()
        self._probe.forget()
        if self._nonfinite is not None:
            self._nonfinite.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _before_forward(self) -> None:
        """A forward pass begins: the last step is over."""
        if self.recording is not None:
            self.recording.open = False
        if self._stepped is not None:
            self._take()
        elif self._in_step:  # in a closure: its last evaluation counts
            if self._probe.drop_emptied():
                self._probe.forget()
            self._probe.discarded = 0  # the optimizer has used them
        elif self._optimizers.stepped:  # another than the one that counts
            self._probe.start_over()
            self._optimizers.stepped.clear()
        elif self._probe.drop_emptied() or (self._probe.has_gradients and self._probe.skipped >= PATIENCE - 1):
            self._skip()
        elif self._may_be_by_hand and not self._optimizers.have_stepped and self._probe.parameters.moved_by_hand:
            self._end_step_by_hand()

    def _end_step_by_hand(self) -> None:
        """The weights were moved without an optimizer, and their gradients are still there."""
        self._record()
        self._count_step()

    def _listen_to(self, scaler: torch.amp.GradScaler | None) -> None:
        self._scaler = scaler
        if scaler is not None:
            self._stop_listening = listen_to_updates(scaler, self._before_update)

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if optimizer not in self._seen:  # another set, for another thread may read this one
            self._seen = WeakSet([*self._seen, optimizer])
        if optimizer not in self._optimizers:
            return  # another loss may read the same outputs later, as in a GAN
        self._probe.stop_following()
        if self._nonfinite is not None and self._watches:
            self._nonfinite.before_step(self._step, optimizer)
        if self._probe.attached:
            if self._scaler is None:
                self._listen_to(stepping(torch.amp.GradScaler))
            if self._probe.parameters.has_other_gradients:
                self._probe.discarded = 0  # they were collected first
            self._in_step, self._discarded = True, self._probe.discarded
            self._scaled = self._scale
            fused = getattr(optimizer, "grad_scale", None) is not None  # it unscales gradients in its step
            unscaled = 1.0 if fused else self._scaled
            self._probe.parameters.before_step(groups(optimizer), unscaled, in_backward=backward_pass() != NONE)
        self._record_step(optimizer)

    def _record_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.recording is not None and (self._probe.attached or self.recording.open):
            take = self._probe.take_step if self._probe.attached else lambda: None
            scale, shares = self._scaled or 1.0, self._probe.parameters
            self.recording.before_step(optimizer, take, self._of_others, lambda: shares.share_taken, scale)

    def _of_others(self) -> set[int]:
        """Parameters that optimizers of other models move."""
        own = set(map(id, self.model.parameters()))
        return set().union(*(moved(optimizer) for optimizer in self._seen)) - own

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._watches:
            return
        if optimizer not in self._optimizers:
            self._foreign_steps += 1
            if self._probe.has_gradients:
                self._probe.note_use(moved(optimizer))
            return
        if self._nonfinite is not None:
            self._nonfinite.after_step()
        if self._in_step:  # the evaluations of a closure were for the step
            self._probe.discarded = min(self._discarded, self._probe.discarded)
            if self.recording is not None and not self.recording.open:
                self._record_step(optimizer)
        self._in_step = False
        counts = self._optimizers.count(optimizer)
        self._probe.may_rest = False
        self._counted |= counts
        if self._probe.attached:
            if bool(getattr(optimizer, "found_inf", False)):  # a fused optimizer skips the step by itself
                if counts:
                    self._skip()
                return
            self._probe.parameters.after_step(groups(optimizer))
            self._optimizers.stepped.add(optimizer)
        if counts:
            self._stepped = self._step if self._probe.attached else None
            self._step += 1
            self._probe.skipped = 0
        if self._stepped is not None and backward_pass() == NONE:
            self._take_if_complete()
        elif counts:
            self._foreign_steps = 0
            self._attach_if_due()

    def _before_update(self) -> None:
        """The scaler has made a step, or skipped it."""
        assert self._scaler is not None
        if not self._counted and stepped(self._scaler, self._optimizers.counting):
            self._skip()
        self._counted = False

    def _skip(self) -> None:
        """No optimizer has used the gradients."""
        self._probe.skipped += 1
        count, alike = self._probe.skipped, self._scaler is not None or self._ranks.count == 1
        if self._probe.attached and count >= PATIENCE and alike:
            if self._all(self._probe.has_gradients):
                note = _("no optimizer used the gradients of {count} passes in a row; this is the last", count=count)
                self._record(note, unused=count)
        elif self._probe.attached:
            self._probe.forget()
        elif self._probe.skipped == PATIENCE - 1:
            self._probe.attach()

    def _take_if_complete(self) -> None:
        """Measure the step, unless other optimizers have parameters to move yet; they do before the next forward pass.

        All ranks decide alike, because they join their numbers.
        """
        if not self._all(self._probe.has_gradients):
            self._without_gradient += 1
            if self._without_gradient == PATIENCE:
                runs = self._probe.passes > 0 or not self._history.measurements
                self._missing(runs)
                if runs and not self._probe.parameters.has_gradients and self._ranks.count == 1:
                    self._probe.parameters.read_gradients()
                    self._record()  # no layer is trained
                    self._without_gradient = PATIENCE
            self._stepped = None
            self._optimizers.stepped.clear()
            self._probe.start_over()
            if self._without_gradient >= PATIENCE:
                self._probe.detach()
                self._attach_if_due()
        elif self._all(self._probe.parameters.moved):
            self._take()

    def _missing(self, runs: bool) -> None:
        """No gradient has reached the model in the last `PATIENCE` measured steps, perhaps because it does not run."""
        if runs:
            text = _(
                "In {count} measured steps in a row, no gradient reached the model, so the Monitor measures nothing. "
                "It measures forward passes that run module by module and whose gradients come from backward(): not "
                "those of TorchScript, transforms of torch.func, replayed CUDA graphs, a copy of the model, or layers "
                "that are custom autograd functions. Give it the modules that train",
                count=PATIENCE,
            )
            warn(text)

    def _take_finished(self) -> None:
        """Measure a step that waits for other optimizers, where no rank has to agree."""
        if self._stepped is not None and self._ranks.count == 1:
            self._take()

    def _take_unused(self) -> None:
        """Measure a training without a step."""
        passes = self._probe.passes if self._probe.has_gradients else 0
        if passes >= FEWEST_PASSES and not self.measurements and self._ranks.count == 1:
            self._record(unused=passes)

    def _take(self) -> None:
        self._record()
        self._attach_if_due()

    def _record(self, *notes: str, unused: int = 0) -> None:
        step = self._step if self._stepped is None else self._stepped
        discarded = 0 if unused else self._probe.discarded
        by_others = self._optimizers.have_stepped or self._probe.computed_weights
        if unused and (by_others or self._probe.parameters.changed):
            unused = 0  # these passes are for something else, or the weights are changed by hand
        mixed = self._probe.mixed
        measurement = self._probe.conclude(self._scaled or self._scale)
        measurement = replace(
            measurement,
            step=step,
            notes=(*measurement.notes, *notes),
            unused=unused,
            discarded=discarded,
            foreign_steps=self._foreign_steps,
            mixed=mixed,
            replaced=self._optimizers.replaced,
            renewed=tuple(n for n, p in self.model.named_parameters() if self._first.setdefault(n, ref(p))() is not p),
            loss_weights=self._probe.loss_weights(set().union(*map(moved, self._seen))),
            origin=None if self._nonfinite is None else self._nonfinite.found,
        )
        self._history.add(measurement)
        self._start_over()
        for sink in self._sinks:
            sink(measurement)

    @property
    def _scale(self) -> float:
        """What the scaler multiplies losses by."""
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def _start_over(self) -> None:
        self._stepped = self._scaled = None
        self._without_gradient = 0
        self._foreign_steps = 0
        self._optimizers.stepped.clear()
        self._probe.forget()

    def _count_step(self) -> None:
        self._step += 1
        self._attach_if_due()

    def _attach_if_due(self) -> None:
        traced = self._nonfinite is not None and self._nonfinite.found_in == self._step - 1
        if self._step % self.every == 0 or self._probe.rests or traced:
            self._probe.attach()

    def _all(self, flag: bool) -> bool:
        return self._ranks.all(flag, next(self.model.parameters()).device)
