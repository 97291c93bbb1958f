"""Watch: a Monitor for each model that this process trains, found without a line of code in the training script."""

import gc
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from unstuck._torch import eager
from unstuck._torch.autograd import NONE, backward_pass, gradient_state
from unstuck._torch.hooks import register_global_hooks, stepping
from unstuck.diagnosis import Diagnosis
from unstuck.findings import Finding, Severity
from unstuck.language import _
from unstuck.measure.measurement import Measurement, Subject
from unstuck.measure.optimizer_steps import moved
from unstuck.monitor import Monitor
from unstuck.observation.process_group import Alone
from unstuck.remedies import findings_of
from unstuck.rules import find
from unstuck.surroundings import identities, surroundings
from unstuck.wording import counted, in_one_line

CADENCE = ((1, 1), (40, 10), (100, 20), (800, 100), (1600, 200))
"""Up to which step the next measurement comes after how many; later after an eighth of the steps so far."""
PATIENCE = 10
"""Steps for which an optimizer waits for its models, and a model for its optimizer."""
SETTLED = 20
"""A warning of the first step is announced after so many steps, if it is still found; a later one waits longer."""
MOST = 16
"""Models of a class that are watched."""
OnFinding = Callable[[str, int, Finding], object]


@dataclass(frozen=True)
class Verdict:
    """The result for one model."""

    name: str  # class of the model, with a number if there are several of it
    diagnosis: Diagnosis | None  # None: nothing was measured
    optimizers: tuple[str, ...]  # their classes; empty: no optimizer has moved the model
    past: tuple[tuple[int, Finding], ...]  # of earlier measurements, not in the last one, with their steps
    missing: str = ""  # why nothing was measured


class Watch:
    """Finds the models of this process as they run, and monitors each; make it before the training starts.

    A model is the largest module that contains the one that runs: gradients are enabled, and it has parameters that
    train. The search goes on until each optimizer that steps holds parameters of known models; after that, steps that
    are not measured cost nothing. Each rank measures its own part and waits for no other. A model is held until its
    optimizers are gone.

    Args:
        on_finding: is called with the name of a model, the step, and an error or a warning that is new to this model:
            an error of the first measurement, or what two in a row have. The first steps of Adam are large.
        every: measure one step of so many; None: 0, 1, 10, 20, 30, 40, 60, 80, 100, 200 ... 800,
            later fewer.
        trace_nonfinite: as in `Monitor`.

    Attributes:
        problems: what could not be watched, in words.

    Example:
        >>> watch = Watch(lambda name, step, finding: print(name, step, finding.rule))
        >>> layers = [layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
        >>> model = nn.Sequential(*layers, nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> model(torch.randn(64, 8)).square().mean().backward()
        >>> optimizer.step()
        Sequential 0 US101
        >>> [verdict.name for verdict in watch.verdicts()]
        ['Sequential']
        >>> watch.remove()
    """

    def __init__(self, on_finding: OnFinding, every: int | None = None, *, trace_nonfinite: bool = False) -> None:
        self.problems: dict[str, None] = {}
        self.on_finding, self.every, self.trace_nonfinite = on_finding, every, trace_nonfinite
        self._owner = os.getpid(), threading.main_thread().ident
        self._classes: Counter[str] = Counter()  # how many models of each
        self._unwatched: dict[str, set[int]] = {}  # why modules that ran are not watched, and their parameters
        self._models: list[_Model] = []  # in the order in which they began
        self._steps: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()  # `PATIENCE` at most
        self._strangers: WeakKeyDictionary[torch.optim.Optimizer, str] = WeakKeyDictionary()  # said of its parameters
        self._outermost: nn.Module | None = None  # of the modules that run
        self._stop_search: Callable[[], None] | None = None
        self._stop_listening: Callable[[], None] | None = None
        self._search()

    @property
    def _running(self) -> "list[_Model]":
        """The models whose training is not known to be over."""
        return [model for model in self._models if model.result is None]

    @property
    def has_steps(self) -> bool:
        """Whether a step was recorded, which trials can train again."""
        recordings = (model.monitor.recording for model in self._running)
        return any(recording is not None and recording.steps for recording in recordings)

    def verdicts(self, seconds: float = 0.0) -> list[Verdict]:
        """The result for each model so far, in the order in which they began.

        Args:
            seconds: that the trials of all models may take, about.
        """
        measured = sum(bool(model.monitor.measurements) for model in self._running)
        share = seconds / max(1, measured)
        return [model.result or model.verdict(share) for model in self._models if not self._is_known(model)]

    def remove(self) -> None:
        """Stop watching."""
        if self._stop_listening is not None:
            self._stop_listening()
        self._end_search()
        self.problems.update({} if self._models else dict.fromkeys(self._unwatched))
        for model in self._running:
            model.beside = not model.kinds and any(other.kinds for other in self._running)
            model.monitor.remove()

    def _search(self) -> None:
        if self._stop_search is None:
            self._outermost = None
            self._stop_search = register_global_hooks(self._enter, self._leave)
            eager.hold()

    def _end_search(self) -> None:
        if self._stop_search is not None:
            self._stop_search()
            self._stop_search = None
            eager.release()

    def _is_elsewhere(self) -> bool:
        """Whether this is another thread, or a forked process such as a worker of a DataLoader."""
        return (os.getpid(), threading.get_ident()) != self._owner

    def _listen(self) -> None:
        """Listen to steps of optimizers, from the first module on: this may import the compiler."""
        if self._stop_listening is None:
            hook = eager.uncompiled(lambda optimizer, *_: self._stepped(optimizer))
            self._stop_listening = register_optimizer_step_post_hook(hook).remove

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._outermost is not None or not torch.is_grad_enabled():
            return  # a part of the module that runs, or an evaluation
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if tracing or torch.compiler.is_compiling():
            return
        if self._is_elsewhere():
            self.problems[_("what runs in other threads than the main one")] = None
            return
        self._outermost = module
        self._listen()
        if backward_pass() == NONE:
            try:
                self._begin(module, args)
            except Exception as error:  # of whatever kind: the script runs on
                self._failed(type(module).__name__, error)

    def _failed(self, kind: str, error: Exception) -> None:
        self.problems[f"{kind} ({in_one_line(error)})"] = None

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if module is not self._outermost:
            return
        self._outermost = None
        if torch.is_grad_enabled():
            model = self._find(module)
            if model is not None and not model.optimizers and model.monitor.measurements:
                model.monitor.count_pass()  # it was measured although no optimizer moves it

    def _find(self, module: nn.Module) -> "_Model | None":
        """The model that a module is a part of, or the wrapper of."""
        own = identities(module)
        return next((model for model in self._running if own <= model.parameters), None) if own else None

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The outermost module of a forward pass is about to run."""
        kind, own = type(module).__name__, list(module.parameters())
        if not own or self._find(module) is not None:
            return
        if any(not isinstance(p, nn.Parameter) for p in own):
            self._unwatched[_("what runs by torch.func.functional_call: call the model itself in some steps")] = set()
            return
        if not any(p.requires_grad for p in own):
            problem = _(
                "{kind}, whose {parameters} are all frozen (`requires_grad=False`): unfreeze those that shall train "
                "before the optimizer is made; PEFT loads an adapter to train it with `is_trainable=True`",
                kind=kind, parameters=counted(len(own), "parameter"),
            )  # fmt: skip
            self._unwatched[problem] = identities(module)
            return
        if self._classes[kind] >= MOST:
            problem = _(
                "more than {count} models of the class {kind}; if they are meant to be one, make it before the loop",
                kind=kind, count=MOST,
            )  # fmt: skip
            self.problems[problem] = None
            return
        whole = surroundings(module)
        if any(model.kinds for model in self._running) or whole is not module:
            del whole  # or it is held
            gc.collect()  # what nobody has any more, such as an earlier model and its optimizers
            whole = surroundings(module)
        for model in self._running:
            part = model.parameters <= identities(whole)
            if part or model.is_over:
                self._retire(model, part=part)
        model = _Model(self._name(whole), whole, self)
        # Optimizers of the model step, and another model may run in its place: search again.
        model.monitor.on_missing = lambda: self._steps.update(dict.fromkeys(model.optimizers, 0))
        model.monitor.on_error = lambda error: self._failed(kind, error)
        self._models.append(model)
        steps = (n for o, n in self._steps.items() if n < PATIENCE and not moved(o).isdisjoint(model.parameters))
        # They began the search that found it; the last one calls it in a closure.
        model.monitor.start_at(max(steps, default=0), stepping(torch.optim.Optimizer))
        model.monitor.begin(module, args)

    def _name(self, module: nn.Module) -> str:
        for model in self._models:
            if model.module() is module and not model.kinds:  # its optimizer comes late
                self._models.remove(model)
                return model.name
        kind = type(module).__name__
        self._classes[kind] += 1
        return f"{kind} {self._classes[kind]}" if self._classes[kind] > 1 else kind

    def _is_known(self, model: "_Model") -> bool:
        """Whether a model only runs beside others, and was trained before."""
        module = model.module()
        return model.beside and any(other.kinds and other.module() is module is not None for other in self._models)

    def _retire(self, model: "_Model", *, beside: bool = False, part: bool = False) -> None:
        """Keep the result of a model, and not the model; of a part of another model only if it was measured."""
        model.beside = beside
        verdict = model.end()
        if self._is_known(model) or (part and verdict.diagnosis is None):
            self._models.remove(model)

    def _stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Search for the models of an optimizer in its first steps; a model that none moves in as many is idle."""
        if self._is_elsewhere():
            return
        idle = [model for model in self._running if not model.optimizers]
        steps = self._steps.get(optimizer, 0)
        if steps == PATIENCE and not idle:
            return
        held = moved(optimizer)
        for model in self._running:
            if not held.isdisjoint(model.parameters):
                model.optimizers.add(optimizer)
                model.kinds[type(optimizer).__name__] = None
        for model in idle:
            model.waited += not model.optimizers
            if model.waited >= PATIENCE:
                self._retire(model, beside=any(other.optimizers for other in self._running))
        if steps < PATIENCE:
            self._search()
            self._steps[optimizer] = steps + 1
        if steps + 1 == PATIENCE:
            self._settle(optimizer, held)

    def _settle(self, optimizer: torch.optim.Optimizer, held: set[int]) -> None:
        """The models of an optimizer are known, or do not come."""
        strangers = held.difference(*(model.parameters for model in self._running))
        for problem, own in self._unwatched.items():
            if not strangers.isdisjoint(own):
                self.problems[problem] = None
            strangers -= own
        self.problems.pop(self._strangers.pop(optimizer, ""), None)  # their module came late
        # Parameters of a class that is not watched any more belong to models that were not looked at.
        if strangers and max(self._classes.values(), default=0) < MOST:
            counts = {"optimizer": type(optimizer).__name__, "count": len(strangers), "all": len(held)}
            problem = _("{optimizer}: {count} of its {all} parameters belong to no module that ran", **counts)
            self._strangers[optimizer] = problem
            self.problems[problem] = None
        if all(steps == PATIENCE for steps in self._steps.values()):
            self._end_search()


class _Monitor(Monitor):
    """Neither warns nor raises: the script has no Monitor, and the verdict says it."""

    on_missing: Callable[[], object]  # is called if optimizers of the model step and the model does not run
    on_error: Callable[[Exception], object]  # is called if a measurement fails

    def start_at(self, step: int, begun: torch.optim.Optimizer | None) -> None:
        """Count steps from this one on, which an optimizer has begun if it runs in a closure."""
        self._step = step
        if begun is not None:
            self._before_step(begun)

    def count_pass(self) -> None:
        """A forward pass of a model that no optimizer moves is a step."""
        self._count_step()

    def _missing(self, runs: bool) -> None:
        if not runs:
            self.on_missing()

    def _end_step_by_hand(self) -> None:
        self._record()
        self._attach_if_due()  # a step is counted where its forward pass ends

    def _record(self, *notes: str, unused: int = 0) -> None:
        try:
            super()._record(*notes, unused=unused)
        except Exception as error:  # of whatever kind: the script runs on
            self._stepped = None
            self.remove()
            self.on_error(error)


class _Model:
    """A model with its Monitor and the optimizers that move it."""

    def __init__(self, name: str, model: nn.Module, watch: "Watch") -> None:
        self.name = name
        self.optimizers: WeakSet[torch.optim.Optimizer] = WeakSet()
        self.kinds: dict[str, None] = {}
        self.waited = 0
        self.beside = False  # it runs beside models that train
        self.module = ref(model)
        self.result: Verdict | None = None  # when its training is over
        self._widens = watch.every is None
        self._gradients = [gradient_state(p) for p in model.parameters()]
        self._on_finding = watch.on_finding
        self._since: dict[str, int] = {}  # since which step each rule has found something
        self._found: dict[str, tuple[int, Finding]] = {}
        self.monitor = _Monitor(
            model, watch.every or 1, trials=True, trace_nonfinite=watch.trace_nonfinite,
            process_group=Alone(), sinks=[self._measured],
        )  # fmt: skip

    @property
    def is_over(self) -> bool:
        """Whether its optimizers are gone: nobody trains it any more."""
        return bool(self.kinds) and not self.optimizers

    @property
    def parameters(self) -> set[int]:
        """The identities of its parameters."""
        return identities(self.monitor.model)

    def end(self) -> Verdict:
        """Its result, without the model, which is not watched any more."""
        self.monitor.remove()
        self.result = verdict = self.verdict()
        if verdict.diagnosis is not None:
            self.result = replace(verdict, diagnosis=replace(verdict.diagnosis, subject=None))
        del self.monitor
        return self.result

    def verdict(self, seconds: float = 0.0) -> Verdict:
        """The result so far, with trials of so many seconds, about."""
        if self.beside:
            states = [gradient_state(p) for p in self.monitor.model.parameters()]
            reached = any(state not in (None, before) for state, before in zip(states, self._gradients, strict=False))
            missing = _("it ran beside other models")
            if reached:
                missing = _(
                    "gradients reach it, but no optimizer that made a step has its parameters: give them to one, or "
                    "freeze the model"
                )
            return Verdict(self.name, None, (), (), missing)
        if not self.monitor.measurements:
            missing = _("no gradient of a backward() came back through its layers before a step")
            return Verdict(self.name, None, tuple(self.kinds), (), missing)
        diagnosis = self.monitor.diagnosis(seconds)
        now = {finding.rule for finding in diagnosis.findings}
        past = tuple(found for rule, found in self._found.items() if rule not in now)
        return Verdict(self.name, diagnosis, tuple(self.kinds), past)

    def _measured(self, measurement: Measurement) -> None:
        step = measurement.step or 0
        if self._widens:
            self.monitor.every = distance(step)
        if self.beside:
            return
        measurements = self.monitor.measurements
        found = [f for f in find(measurements, ends=False) if f.severity is not Severity.NOTE]
        self._since = {f.rule: self._since.get(f.rule, step) for f in found}
        new = {f.rule for f in found if f.rule not in self._found and self._has_settled(f, step)}
        for finding in findings_of(measurements, Subject(self.monitor.model)) if new else ():
            if finding.rule in new:
                self._found[finding.rule] = step, finding
                self._on_finding(self.name, step, finding)

    def _has_settled(self, finding: Finding, step: int) -> bool:
        """Whether measurements have had a finding for long enough; a young training has many warnings."""
        since = self._since[finding.rule]
        if finding.severity is Severity.ERROR:
            return since < step or len(self.monitor.measurements) == 1
        return step >= 2 * since + SETTLED


def distance(step: int) -> int:
    """How many steps after a measurement the next one comes: a hundred times as long a training has a few more."""
    return next((every for until, every in CADENCE if step < until), step // 800 * 100)


def kind_of(name: str) -> str:
    """The class in the name of a model."""
    return name.partition(" ")[0]
