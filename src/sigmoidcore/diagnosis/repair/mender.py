"""Repair a model, and keep a change only if its diagnosis improves."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sigmoidcore.calibration.calibrate import calibrate
from sigmoidcore.conversion import convert, few
from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Subject
from sigmoidcore.diagnosis.measure.one_batch import measure
from sigmoidcore.diagnosis.repair.calls import findings_of
from sigmoidcore.diagnosis.repair.candidates import Candidates, candidates
from sigmoidcore.diagnosis.repair.mending import Change, Left, Mending, summary
from sigmoidcore.diagnosis.repair.saturation import open_saturated
from sigmoidcore.diagnosis.repair.snapshot import Snapshot
from sigmoidcore.diagnosis.rules import gaps
from sigmoidcore.diagnosis.wording import counted
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, LossFn, check_inputs

LEVEL = ("SC101", "SC102", "SC103", "SC104")
"""Rules that `convert` and `calibrate` repair."""
SATURATED = ("SC201",)
"""Rules that opening saturated neurons repairs."""
UPDATES = ("SC301", "SC302")
"""Rules that judge several steps, which one batch does not show."""
BETTER = 2.0
"""A finding that remains must come nearer to its threshold by this factor."""


def mend(
    diagnosis: Judgement,
    *,
    inputs: Inputs | None = None,
    targets: Any = None,
    loss_fn: LossFn | None = None,
) -> Mending:
    """Repair the diagnosed model in place, as far as Sigmoid Core can.

    - SC201, saturated neurons: the named activations become cores, whose saturated neurons get a new shift and, if that
      is not enough, a smaller slope.
    - SC101 to SC104, vanishing or exploding gradient, over the layers or through time: all hidden sigmoids, tanhs and
      recurrent layers become cores, and `calibrate` sets their slopes and shifts.

    Each step is measured on the batch, and undone if the diagnosis does not improve. Weights, gradients, modes, running
    statistics, hooks and random generators do not change. Slopes and shifts change the function of the model: train it
    afterwards. With `torch.distributed`, call it on all ranks with the same model.

    Args:
        diagnosis: of `diagnose`, or of a `Monitor`.
        inputs: a batch, as for `diagnose`; None for that of the diagnosis (a `Monitor` keeps none).
        targets: targets of these inputs.
        loss_fn: None for that of the diagnosis, if there are targets.

    Returns:
        A frozen, printable report, with the diagnosis before and after.

    Raises:
        ValueError: the diagnosis has no model or no batch, or the batch is empty or not finite.

    Example:
        >>> import sigmoidcore as sc
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
        >>> _ = model[0].bias.data[:12].fill_(20)
        >>> inputs, targets = torch.randn(100, 8), torch.randn(100, 2)
        >>> diagnosis = sc.diagnose(model, inputs, targets, nn.functional.mse_loss)
        >>> mending = diagnosis.mend()
        >>> mending.done[1].how
        '12 of 16 neurons opened'
    """
    subject = _subject(diagnosis, inputs, targets, loss_fn)
    check_inputs(subject.inputs)
    mender = _Mender(replace(diagnosis, subject=subject, history=()), subject)
    revealed = mender.attempt(SATURATED, mender.open_neurons)
    mender.attempt(LEVEL + revealed, mender.level)
    return mender.report(diagnosis.findings)


def _subject(diagnosis: Judgement, inputs: Any, targets: Any, loss_fn: Any) -> Subject:
    """The model and the batch to measure it on."""
    subject = diagnosis.subject
    if subject is None:
        raise ValueError("this diagnosis has no model: mend one from sc.diagnose or a Monitor")
    if inputs is not None:
        loss_fn = subject.loss_fn if targets is not None and loss_fn is None else loss_fn
        return replace(subject, inputs=inputs, targets=targets, loss_fn=loss_fn)
    if targets is not None:
        raise ValueError("targets are given without their inputs: give inputs=, too")
    if subject.inputs is None:
        how = "d.mend(inputs=..., targets=..., loss_fn=...)"
        raise ValueError(f"this diagnosis has no batch, because a Monitor keeps none: {how}")
    return subject if loss_fn is None else replace(subject, loss_fn=loss_fn)


class _Mender:
    """A model under repair: its state, the changes, and why others were not made."""

    def __init__(self, diagnosis: Judgement, subject: Subject) -> None:
        self.subject, self.model = subject, subject.model
        self.before = self.now = self._judged(diagnosis)
        self.done: list[Change] = []
        self.notes: list[str] = []
        self.reasons: dict[str, list[str]] = defaultdict(list)

    def attempt(self, rules: tuple[str, ...], step: Callable[[list[Finding]], list[Change]]) -> tuple[str, ...]:
        """Take a step if one of the rules found something, and undo it if it does not help.

        Returns the rules if the step was undone because it revealed a gradient that is not level; else ().
        """
        findings = [f for f in self.now.findings if f.rule in rules and f.severity is not Severity.NOTE]
        if not findings:
            return ()
        snapshot, notes, before = Snapshot(self.model), list(self.notes), self.now
        try:
            changes = step(findings)
            after = self._judged(before)
            if _better(before, after, rules):
                self.done += changes
                self.now = after
                return ()
            tried = " and ".join(dict.fromkeys(change.what for change in changes))
            self._explain(findings, f"{tried}, but undone without improvement: {summary(before)} -> {summary(after)}")
            new = {f.rule for f in after.findings} - {f.rule for f in before.findings}
            return rules if new.intersection(LEVEL) else ()
        except (RuntimeError, TypeError, ValueError) as error:
            self._explain(findings, str(error))
            return ()
        finally:
            if self.now is before:
                snapshot.restore()
                self.notes = notes

    def open_neurons(self, findings: list[Finding]) -> list[Change]:
        """Convert the activations that the findings name, and open their saturated neurons."""
        found = candidates(self.model, self.now.measurement, {name for f in findings for name in f.layers})
        changes = self._convert(found)
        modules = {name: self.model.get_submodule(name) for name in (*found.new, *found.cores)}
        cores = {name: module for name, module in modules.items() if isinstance(module, SigmoidCore)}
        opened = open_saturated(self.model, self.subject.inputs, cores) if cores else {}
        if not opened:
            raise ValueError(found.why or "no neuron of these activations is saturated on this batch")
        if found.why:
            self._explain(findings, found.why)
        return changes + [Change("opened", name, f"{n} of {of} neurons opened") for name, (n, of) in opened.items()]

    def level(self, findings: list[Finding]) -> list[Change]:
        """Convert all hidden sigmoids, and set slopes and shifts from the batch."""
        found = candidates(self.model, self.now.measurement)
        found.check()
        changes = self._convert(found)
        targets, loss_fn = self.subject.targets, self.subject.loss_fn
        if loss_fn is not None and targets is None:  # a loss of the outputs alone
            targets, loss_fn = (), lambda outputs, _: self.subject.loss_fn(outputs, None)  # type: ignore[misc]
        calibration = calibrate(self.model, self.subject.inputs, targets=targets, loss_fn=loss_fn)
        self.notes += calibration.notes
        spreads = f"spread of the profile {calibration.before.spread:.3g} -> {calibration.after.spread:.3g}"
        return [*changes, Change("calibrated", counted(len(calibration.slopes), "core"), spreads)]

    def _convert(self, found: Candidates) -> list[Change]:
        """Make cores of the candidates: a change for each kind of activation."""
        names: dict[str, list[str]] = defaultdict(list)
        if found.new:
            for activation in convert(self.model, include=found.include, exclude=found.exclude).activations:
                if activation.converted:
                    names[activation.kind].append(activation.name)
        how = "{} {} -> {}, the same function"
        return [
            Change("converted", few(several), how.format(len(several), kind, counted(len(several), "core")))
            for kind, several in names.items()
        ]

    def report(self, asked: Sequence[Finding]) -> Mending:
        """The report. Findings are left if they are there now, or were asked for and not repaired."""
        before = {finding.rule for finding in self.before.findings}
        hidden = [f for f in asked if f.rule in LEVEL + SATURATED and f.rule not in before]
        self._explain(hidden, "this batch does not show it")
        found = [f for f in asked if f.rule in UPDATES]
        found += [f for f in self.now.findings if f.severity is not Severity.NOTE]
        for finding in found:
            others = [reason for reason in self.reasons[finding.rule] if reason not in finding.remedy]
            self.reasons[finding.rule] = [*others, finding.remedy]
        left = {f.rule: f for f in (*hidden, *found)}
        rows = [
            Left(f.rule, f"{f.name}, {few(f.layers)}" if f.layers else f.name, ". ".join(self.reasons[f.rule]))
            for f in left.values()
        ]
        return Mending(self.before, self.now, tuple(self.done), tuple(rows), tuple(self.notes))

    def _judged(self, diagnosis: Judgement) -> Judgement:
        """The same with a new measurement on the batch."""
        measurement = measure(self.subject, Ranks())
        findings = findings_of([measurement], self.model)
        return replace(diagnosis, measurement=measurement, findings=findings, gaps=gaps([measurement]))

    def _explain(self, findings: Iterable[Finding], reason: str) -> None:
        for finding in findings:
            self.reasons[finding.rule].append(reason)


def _better(before: Judgement, after: Judgement, rules: tuple[str, ...]) -> bool:
    """Whether there are fewer errors, else warnings, else layers with these findings, or they are much less so."""
    nonfinite, *counts, excess = _score(before, rules)
    new_nonfinite, *new_counts, new_excess = _score(after, rules)
    return new_nonfinite <= nonfinite and (*new_counts, BETTER * new_excess) < (*counts, excess)


def _score(diagnosis: Judgement, rules: tuple[str, ...]) -> tuple[float, ...]:
    """Numbers that are not finite, errors, warnings, layers with these findings, and the largest excess."""
    severities = [finding.severity for finding in diagnosis.findings]
    findings = [finding for finding in diagnosis.findings if finding.rule in rules]
    ratios = [f.value / f.threshold if f.threshold else math.inf for f in findings]
    loss, layers = diagnosis.measurement.loss, diagnosis.measurement.layers
    return (
        (loss is not None and not math.isfinite(loss)) + sum(x.nonfinite + x.nonfinite_gradient for x in layers),
        severities.count(Severity.ERROR),
        severities.count(Severity.WARNING),
        sum(len(finding.layers) for finding in findings),
        max((max(r, 1 / r) if 0 < r < math.inf else math.inf for r in ratios), default=1.0),
    )
