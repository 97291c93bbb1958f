"""Mend: apply to a model what its diagnosis names and Sigmoid Core can do, and keep it only if it is better."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sigmoidcore.calibration.calibrate import calibrate
from sigmoidcore.conversion.convert import convert
from sigmoidcore.conversion.report import Activation, Conversion, few
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.judgement import Judgement, Subject
from sigmoidcore.diagnosis.measure.one_batch import measure
from sigmoidcore.diagnosis.repair import learning_rates, saturation
from sigmoidcore.diagnosis.repair.calls import findings_of
from sigmoidcore.diagnosis.repair.convertible import cores
from sigmoidcore.diagnosis.repair.report import Change, Left, Mending, summary
from sigmoidcore.diagnosis.repair.snapshot import Kept
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, LossFn, check_inputs

__all__ = ["Mending", "mend"]

LEVEL = ("SC101", "SC102", "SC103", "SC104")
"""The gradient vanishes or explodes, over the layers or through time: `convert` and `calibrate`."""
SATURATED = ("SC201",)
"""Neurons are saturated: `convert` where they are, and the Equalizer's neuron rule."""
UPDATES = ("SC301", "SC302")
"""Updates are too small or too large: rates of `depth_scaled_lr`."""
BETTER = 2.0
"""What stays a finding must have come nearer to its threshold by this factor."""


def mend(
    diagnosis: Judgement,
    *,
    inputs: Inputs | None = None,
    targets: Any = None,
    loss_fn: LossFn | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Mending:
    """Apply what can be applied to the model that was diagnosed, in place; nothing else is touched.

    - SC201, saturated neurons: the activations that it names, and no others, become cores. Their saturated neurons get
      the mean of what they read as their shift and, if that is not enough, a smaller slope: the `Equalizer`'s rule.
    - SC101 to SC104, vanishing or exploding gradient, over the layers or through time: all hidden sigmoids, tanhs and
      recurrent layers become cores, and `calibrate` sets their slopes and shifts.
    - SC301, SC302, updates too small or too large: with `optimizer`, the rates of `depth_scaled_lr`; for Adam, AdamW
      and networks of sigmoids.

    Each step is measured on the batch. What does not make the diagnosis better is put back, the structure of the model
    included. Weights, their gradients, modes, running statistics, hooks and random generators stay as they are.
    Slopes and shifts change the function that the model computes: train it on.

    Across ranks of `torch.distributed`, call it on all of them with the same model.

    Args:
        diagnosis: of `diagnose`, or of a `Monitor`.
        inputs: a batch, as for `diagnose`. None: that of the diagnosis; a `Monitor` keeps none.
        targets: that of these inputs.
        loss_fn: None: that of the diagnosis, if there are targets.
        optimizer: whose rates may be set. Groups are split by rate and keep their options and what they remember;
            a state dict that was saved before does not fit the new groups.

    Returns:
        A frozen, printable report, with the diagnosis before and after.

    Raises:
        ValueError: the diagnosis has no model or no batch, or the batch is empty or not finite.

    Example:
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
        >>> _ = model[0].bias.data[:12].fill_(20)
        >>> inputs, targets = torch.randn(100, 8), torch.randn(100, 2)
        >>> diagnosis = sc.diagnose(model, inputs, targets, nn.functional.mse_loss)
        >>> mending = diagnosis.mend()
        >>> mending.done[1].how
        '12 of 16 neurons opened'
    """
    model, batch = _subject(diagnosis, inputs, targets, loss_fn)
    check_inputs(batch[0])
    work = _Work(diagnosis, model, batch)
    work.attempt(SATURATED, work.open_saturated)
    work.attempt(LEVEL + work.hiding, work.level)
    updates = [f for f in diagnosis.findings if f.rule in UPDATES]
    if updates:
        work.set_rates(updates, optimizer)
    return work.report(diagnosis)


_Batch = tuple[Any, Any, Any]


def _subject(diagnosis: Judgement, inputs: Any, targets: Any, loss_fn: Any) -> tuple[nn.Module, _Batch]:
    """The model and the batch."""
    subject = diagnosis.subject
    if subject is None:
        raise ValueError(
            "this diagnosis has no model, as one that was read from a file: make one with sc.diagnose, and mend that"
        )
    if inputs is not None:
        return subject.model, (inputs, targets, subject.loss_fn if targets is not None and loss_fn is None else loss_fn)
    if targets is not None:
        raise ValueError("targets are given without the inputs that they belong to: give inputs=, too")
    if subject.inputs is None:
        raise ValueError(
            "this diagnosis has no batch, as that of a Monitor: give one, d.mend(inputs=..., targets=..., loss_fn=...)"
        )
    return subject.model, (subject.inputs, subject.targets, subject.loss_fn if loss_fn is None else loss_fn)


class _Work:
    """A model that is being mended: how it is, what was done, and why not more."""

    def __init__(self, diagnosis: Judgement, model: nn.Module, batch: _Batch) -> None:
        self.model = model
        self.batch = batch
        self.original = diagnosis
        self.before = self.now = self._diagnosed()
        self.done: list[Change] = []
        self.notes: list[str] = []
        self.whys: dict[str, list[str]] = defaultdict(list)
        self.hiding: tuple[str, ...] = ()
        """Rules whose step was put back, for what it mended had hidden what a later step mends."""

    def attempt(self, rules: tuple[str, ...], step: Callable[[list[Finding]], list[Change]]) -> None:
        """Take a step if one of the rules found something, and take it back if it does not help."""
        findings = [f for f in self.now.findings if f.rule in rules and f.severity is not Severity.NOTE]
        if not findings:
            return
        kept, notes = Kept(self.model), list(self.notes)
        good, why = False, None
        try:
            changes = step(findings)
            after = self._diagnosed() if changes else self.now
            good = bool(changes) and _better(self.now, after, rules)
            if changes and not good:
                if set(LEVEL) & ({f.rule for f in after.findings} - {f.rule for f in self.now.findings}):
                    self.hiding += rules
                tried = " and ".join(dict.fromkeys(change.what for change in changes))
                why = f"{tried}, and put back, for it did not help: {summary(self.now)} -> {summary(after)}"
        except (RuntimeError, TypeError, ValueError) as error:
            why = str(error)
        finally:
            if not good:
                kept.put_back()
                self.notes = notes
        if good:
            self.done += changes
            self.now = after
        for finding in findings:
            if why is not None:
                self.whys[finding.rule].append(why)

    def open_saturated(self, findings: list[Finding]) -> list[Change]:
        """Cores where the saturated neurons are, and these open."""
        names = list(dict.fromkeys(name for finding in findings for name in finding.layers))
        cores, new, left = saturation.as_cores(self.model, self.now.measurement, names)
        self._say(findings, saturation.told(left))
        opened = saturation.open_saturated(self.model, self.batch[0], cores) if cores else {}
        if not opened:
            return []
        return _converted(new) + [
            Change("opened", name, f"{n} of {of} neurons opened") for name, (n, of) in opened.items()
        ]

    def level(self, findings: list[Finding]) -> list[Change]:
        """Cores for all hidden sigmoids, and their slopes and shifts from the batch."""
        found = cores(self.model, self.now.measurement)
        if not found.possible:
            self._say(findings, [found.why or _no_core(convert(self.model))])
            return []
        conversion = convert(self.model, include=found.include, exclude=found.exclude)
        inputs, targets, loss_fn = self.batch
        if loss_fn is not None and targets is None:  # a loss of the outputs alone
            targets, loss_fn = (), lambda outputs, _: self.batch[2](outputs, None)
        calibration = calibrate(self.model, inputs, targets=targets, loss_fn=loss_fn)
        self.notes += calibration.notes
        spreads = f"spread of the profile {calibration.before.spread:.3g} -> {calibration.after.spread:.3g}"
        return [*_converted(conversion.activations), Change("calibrated", _cores(len(calibration.slopes)), spreads)]

    def set_rates(self, findings: list[Finding], optimizer: torch.optim.Optimizer | None) -> None:
        """The optimizer's rates, by the rule."""
        if optimizer is None:
            self._say(findings, ["give optimizer= to have its rates set"])
            return
        why = learning_rates.why_not(self.model, self.now.measurement, optimizer)
        if why is not None:
            self._say(findings, [why])
            return
        before, after = learning_rates.set_rates(self.model, optimizer)
        groups = len(optimizer.param_groups)
        where = f"{type(optimizer).__name__}, {groups} group" + ("s" if groups > 1 else "")
        self.done.append(Change("rates", where, f"{_range(before)} -> {_range(after)}, by sc.depth_scaled_lr"))
        self.notes.append("what new rates do is seen in the next steps: measure them with sc.Monitor")

    def report(self, diagnosis: Judgement) -> Mending:
        """The report: what is left are findings that are there now, and what was asked for and not done."""
        rates_set = any(change.what == "rates" for change in self.done)
        seen = {f.rule for f in self.before.findings}
        for finding in diagnosis.findings:
            if finding.rule in LEVEL + SATURATED and finding.rule not in seen:
                self._say([finding], ["it is not there on this batch"])
        asked = [
            f
            for f in diagnosis.findings
            if (f.rule in UPDATES and not rates_set) or (f.rule in LEVEL + SATURATED and f.rule not in seen)
        ]
        there = [f for f in self.now.findings if f.severity is not Severity.NOTE and f.rule not in UPDATES]
        left = [
            Left(f.rule, ", ".join([f.name, few(f.layers)][: 1 + bool(f.layers)]), self._why(f))
            for f in {f.rule: f for f in (*asked, *there)}.values()
        ]
        return Mending(self.before, self.now, tuple(self.done), tuple(left), tuple(self.notes))

    def _why(self, finding: Finding) -> str:
        """What was said, and what else can be done about a finding that is there."""
        there = any(finding is f for f in self.now.findings)
        return ". ".join(
            [*self.whys[finding.rule], *([finding.remedy] if there or not self.whys[finding.rule] else [])]
        )

    def _diagnosed(self) -> Judgement:
        training = self.original.subject is not None and self.original.subject.training
        subject = Subject(self.model, *self.batch, training=training)
        measurement = measure(subject, Ranks())
        findings = findings_of([measurement], self.model)
        return replace(self.original, measurement=measurement, findings=findings, history=(), subject=subject)

    def _say(self, findings: Iterable[Finding], whys: Iterable[str]) -> None:
        for finding in findings:
            self.whys[finding.rule] += whys


def _better(before: Judgement, after: Judgement, rules: tuple[str, ...]) -> bool:
    """Whether there are fewer errors, else warnings, else layers with this finding, or it is much less so."""
    if _nonfinite(after) > _nonfinite(before):
        return False
    counts = [
        (*(sum(f.severity is s for f in d.findings) for s in (Severity.ERROR, Severity.WARNING)),
         sum(len(f.layers) for f in d.findings if f.rule in rules))
        for d in (before, after)
    ]  # fmt: skip
    if counts[0] != counts[1]:
        return counts[1] < counts[0]
    excess = [max((_excess(f) for f in d.findings if f.rule in rules), default=0.0) for d in (before, after)]
    return excess[1] <= excess[0] - math.log(BETTER) if math.isfinite(excess[0]) else math.isfinite(excess[1])


def _excess(finding: Finding) -> float:
    """How far beyond its threshold a finding is: the logarithm of a factor."""
    ratio = finding.value / finding.threshold if finding.threshold else math.inf
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def _nonfinite(diagnosis: Judgement) -> int:
    measurement = diagnosis.measurement
    loss = measurement.loss is not None and not math.isfinite(measurement.loss)
    return loss + sum(row.nonfinite + row.nonfinite_gradient for row in measurement.layers)


def _no_core(conversion: Conversion) -> str:
    """Why there is nothing whose slope could be set."""
    kinds = {a.kind: a.why for a in conversion.activations}
    if not kinds:
        return "there is no activation that could become a core"
    kind, why = next(iter(kinds.items()))
    others = f" (others: {', '.join(list(kinds)[1:4])})" if len(kinds) > 1 else ""
    return f"there is no hidden sigmoid or tanh whose slope could be set: {kind} {why}{others}"


def _converted(activations: Iterable[Activation]) -> list[Change]:
    """A change for each kind of activation that has become a core."""
    names: dict[str, list[str]] = defaultdict(list)
    for activation in activations:
        if activation.converted:
            names[activation.kind].append(activation.name)
    return [
        Change("converted", few(those), f"{len(those)} {kind} -> {_cores(len(those))}, the same function")
        for kind, those in names.items()
    ]


def _cores(count: int) -> str:
    return f"{count} core" + ("s" if count != 1 else "")


def _range(values: list[float]) -> str:
    return f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
