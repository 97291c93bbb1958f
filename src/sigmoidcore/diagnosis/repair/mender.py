"""Repair a model, and keep a change only if its diagnosis improves."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sigmoidcore._language import _, edited
from sigmoidcore.calibration.calibrate import Calibration, calibrate, prepare
from sigmoidcore.conversion import convert
from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Subject
from sigmoidcore.diagnosis.measure.one_batch import measure
from sigmoidcore.diagnosis.repair.calls import findings_of, has_sigmoids
from sigmoidcore.diagnosis.repair.candidates import Candidates, candidates
from sigmoidcore.diagnosis.repair.layerwise import SIZE, open_cores, redraw
from sigmoidcore.diagnosis.repair.mending import Change, Left, Mending, summary, word
from sigmoidcore.diagnosis.repair.snapshot import Snapshot
from sigmoidcore.diagnosis.repair.trial import RATES, STEPS, Rates, Trial, final_loss, usual_rates
from sigmoidcore.diagnosis.repair.untrained import may_be_redrawn
from sigmoidcore.diagnosis.rules import gaps
from sigmoidcore.diagnosis.wording import counted, few
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, LossFn, check_inputs

LEVEL = ("SC101", "SC102", "SC103", "SC104")
"""Rules that `convert` and `calibrate` repair."""
SATURATED = ("SC201",)
"""Rules that opening saturated neurons repairs."""
INITIAL = ("SC101", "SC102", *SATURATED, "SC202", "SC203", "SC206", "SC502", "SC503", "SC607")
"""Rules that fresh weights repair, in a network that is not trained yet."""
UPDATES = ("SC301", "SC302")
"""Rules that judge several steps, which one batch does not show."""
BETTER = 2.0
"""A finding that remains must come nearer to its threshold by this factor."""
LEARNS, SPOILS = 0.05, 0.05
"""The loss must end by the first share below that of a blind trial, and at most by the second above the old model's."""


def mend(
    diagnosis: Judgement, *, inputs: Inputs | None = None, targets: Any = None, loss_fn: LossFn | None = None
) -> Mending:
    """Repair the diagnosed model in place, as far as Sigmoid Core can.

    - Weights that are not trained yet are drawn anew. If there are hidden sigmoids, tanhs or recurrent layers, they
      become centered cores, and `prepare` sets them; otherwise each layer gets orthogonal weights, sized on the batch.
    - Trained weights stay. SC201, saturated neurons: the named activations become cores, whose saturated neurons get a
      new shift and, if that is not enough, a smaller slope. SC101 to SC104, vanishing or exploding gradient: all hidden
      sigmoids, tanhs and recurrent layers become cores, and `calibrate` sets their slopes and shifts.

    A repair is kept only if the diagnosis improves, and if the loss falls in a trial: 25 steps of Adam on the batch,
    which are undone. The loss has to fall further than without knowledge of the inputs. Two rates are tried: that of
    `depth_scaled_lr` and 0.001. The report names the better one; for cores, 0.001 is tried only if the first fails.
    Without a loss function, or with several processes, there is no trial, and the report says so.

    Gradients, modes, running statistics, hooks and random generators do not change. With `torch.distributed`, call it
    on all ranks with the same model.

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
        >>> mending.after.healthy
        True
        >>> print(mending.train)
        optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))
    """
    subject = _subject(diagnosis, inputs, targets, loss_fn)
    check_inputs(subject.inputs)
    mender = _Mender(replace(diagnosis, subject=subject, history=()), subject)
    if not mender.repairs(INITIAL, mender.draw_weights):
        mender.repairs(LEVEL + SATURATED, mender.keep_weights)
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
        self.train: str | None = None
        self.reasons: dict[str, list[str]] = defaultdict(list)

    def repairs(self, rules: tuple[str, ...], cure: Callable[[], list[Change]]) -> bool:
        """Apply a cure if one of the rules found something, and undo it if it does not help."""
        findings = self._found(self.now, rules)
        if not findings:
            return False
        snapshot, notes = Snapshot(self.model), list(self.notes)
        try:
            untouched = self._untouched_loss()
            changes = cure()
            if not changes:
                return False
            after = self._judged(self.before)
            why = self._why_not_kept(after, rules, untouched)
            if why is None:
                self.done, self.now = changes, after
            else:
                tried = _(" and ").join(dict.fromkeys(word(change.what) for change in changes))
                self._explain(findings, _("{tried}, but undone {why}", tried=tried, why=why))
        except (RuntimeError, TypeError, ValueError) as error:
            self._explain(findings, str(error))
        finally:
            if not self.done:
                snapshot.restore()
                self.notes = notes
        return bool(self.done)

    def draw_weights(self) -> list[Change]:
        """Draw the weights of an untrained network anew, with cores in place of sigmoids."""
        measurement = self.before.measurement
        if not may_be_redrawn(self.model, measurement):
            return []
        if not has_sigmoids(measurement):
            with torch.random.fork_rng():
                count = redraw(self.model, self.subject.inputs)
            return [
                Change(
                    "drawn",
                    counted(count, "layer"),
                    _("orthogonal weights, outputs of size {size}, biases 0", size=SIZE),
                )
            ]
        return self._convert_and(prepare, "prepared", candidates(self.model, measurement), centered=True)

    def keep_weights(self) -> list[Change]:
        """Open saturated neurons, then level the gradient."""
        opened: list[Change] = []
        now = self.before
        saturated = self._found(now, SATURATED)
        if saturated:
            try:
                opened = self._open(saturated, now)
            except ValueError as error:
                self._explain(saturated, str(error))
            now = self._judged(now)
        if not self._found(now, (*LEVEL, "SC203")):  # sigmoids that were shut hid it
            return opened
        return opened + self._convert_and(calibrate, "calibrated", candidates(self.model, now.measurement))

    def _open(self, findings: list[Finding], now: Judgement) -> list[Change]:
        """Convert the activations that the findings name, and open their saturated neurons."""
        found = candidates(self.model, now.measurement, {name for f in findings for name in f.layers})
        changes = self._convert(found)
        modules = {name: self.model.get_submodule(name) for name in (*found.new, *found.cores)}
        cores = {name: module for name, module in modules.items() if isinstance(module, SigmoidCore)}
        opened = open_cores(self.model, self.subject.inputs, cores) if cores else {}
        if not opened:
            raise ValueError(found.why or _("no neuron of these activations is saturated on this batch"))
        if found.why:
            self._explain(findings, found.why)
        return changes + [
            Change("opened", name, _("{count} of {all} neurons opened", count=n, all=of))
            for name, (n, of) in opened.items()
        ]

    def _convert_and(
        self, cure: Callable[..., Calibration], what: str, found: Candidates, *, centered: bool = False
    ) -> list[Change]:
        """Convert all hidden sigmoids, and set slopes and shifts from the batch."""
        found.check()
        changes = self._convert(found, centered=centered and found.uncentered)
        targets, loss_fn = self.subject.targets, self.subject.loss_fn
        if loss_fn is not None and targets is None:  # a loss of the outputs alone
            targets, loss_fn = (), lambda outputs, _: self.subject.loss_fn(outputs, None)  # type: ignore[misc]
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about sigmoids that hardly learn: a trial follows
            calibration = cure(self.model, self.subject.inputs, targets=targets, loss_fn=loss_fn)
        self.notes += calibration.notes
        before, after = calibration.before.spread, calibration.after.spread
        spreads = _("spread of the profile {before:.3g} -> {after:.3g}", before=before, after=after)
        return [*changes, Change(what, counted(len(calibration.slopes), "core"), spreads)]

    def _convert(self, found: Candidates, *, centered: bool = False) -> list[Change]:
        """Make cores of the candidates: a change for each kind of activation."""
        names: dict[str, list[str]] = defaultdict(list)
        if found.new:
            report = convert(self.model, include=found.include, exclude=found.exclude, centered=centered)
            for activation in report.activations:
                if activation.converted:
                    names[activation.kind].append(activation.name)
        function = _("centered") if centered else _("the same function")

        def how(count: int, kind: str) -> str:
            cores = counted(count, "core")
            return _("{count} {kind} -> {cores}, {function}", count=count, kind=kind, cores=cores, function=function)

        return [Change("converted", few(several), how(len(several), kind)) for kind, several in names.items()]

    def _why_not_kept(self, after: Judgement, rules: tuple[str, ...], untouched: float | None) -> str | None:
        """Why a cure is undone, or None: the diagnosis is not better, or the loss does not fall in a trial."""
        if not _better(self.before, after, rules):
            then, now = summary(self.before), summary(after)
            return _("without improvement: {before} -> {after}", before=then, after=now)
        if untouched is None:
            return None
        has_cores = any(isinstance(module, SigmoidCore) for module in self.model.modules())
        trials: list[Trial] = []
        for name, rates in RATES.items():
            trials.append(self._trial(name, rates, untouched))
            if has_cores and trials[-1].why_not is None:  # the first rates are made for cores
                break
        passed = [trial for trial in trials if trial.why_not is None]
        if not passed:
            return trials[0].why_not
        best = min(passed, key=lambda trial: trial.loss)
        self.train = f"optimizer = torch.optim.Adam({best.rates.format(model=self.subject.name('model'))})"
        self.notes.append(_("{result} ({loss:.3g} before)", result=_loss_reached(best.loss), loss=untouched))
        return None

    def _trial(self, name: str, rates: Callable[[nn.Module], Rates], untouched: float) -> Trial:
        """Train at these rates, and undo it."""
        loss, blind = (final_loss(self.subject, rates(self.model), blind=blind) for blind in (False, True))
        why, result = None, _loss_reached(loss)
        if not loss <= blind - LEARNS * abs(blind):
            why = _("because {result}, and to {loss:.3g} without knowledge of the inputs", result=result, loss=blind)
        elif not loss <= untouched + SPOILS * abs(untouched):
            why = _("because {result}, and to {loss:.3g} in the model as it was", result=result, loss=untouched)
        return Trial(name, loss, why)

    def _untouched_loss(self) -> float | None:
        """The loss after a trial of the model as it is; None if no training can be tried."""
        if self.subject.loss_fn is not None and Ranks().count == 1:
            return final_loss(self.subject, usual_rates(self.model))
        why = _("with several processes")
        if self.subject.loss_fn is None:
            why = _("without a loss function")
        self.notes.append(_("no training was tried {why}", why=why))
        return None

    def report(self, asked: Sequence[Finding]) -> Mending:
        """The report. Findings are left if they are there now, or were asked for and not repaired."""
        before = {finding.rule for finding in self.before.findings}
        hidden = [f for f in asked if f.rule in LEVEL + SATURATED and f.rule not in before]
        self._explain(hidden, _("this batch does not show it"))
        found = [f for f in asked if f.rule in UPDATES]
        found += [f for f in self.now.findings if f.severity is not Severity.NOTE]
        for finding in found:
            others = [reason for reason in self.reasons[finding.rule] if reason not in finding.remedy]
            self.reasons[finding.rule] = [*others, finding.remedy]
        left = {f.rule: f for f in (*hidden, *found)}
        rows = [Left(f.rule, _place(f), _sentences(self.reasons[f.rule])) for f in left.values()]
        return Mending(self.before, self.now, tuple(self.done), tuple(rows), tuple(self.notes), self.train)

    def _judged(self, diagnosis: Judgement) -> Judgement:
        """The same with a new measurement on the batch."""
        measurement = measure(self.subject, Ranks())
        findings = findings_of([measurement], self.subject)
        return replace(diagnosis, measurement=measurement, findings=findings, gaps=gaps([measurement]))

    @staticmethod
    def _found(judgement: Judgement, rules: tuple[str, ...]) -> list[Finding]:
        return [f for f in judgement.findings if f.rule in rules and f.severity is not Severity.NOTE]

    def _explain(self, findings: Iterable[Finding], reason: str) -> None:
        for finding in findings:
            self.reasons[finding.rule].append(reason)


def _loss_reached(loss: float) -> str:
    return _("in {steps} steps on the batch, the loss falls to {loss:.3g}", steps=STEPS, loss=loss)


def _place(finding: Finding) -> str:
    if not finding.layers:
        return _(finding.name)
    return _("{name}, {layers}", name=_(finding.name), layers=few(finding.layers))


def _sentences(reasons: Sequence[str]) -> str:
    """Reasons in a row; a remedy ends with a full stop in every language."""
    return _(". ").join([*(edited(reason, lambda text: text.rstrip("。")) for reason in reasons[:-1]), reasons[-1]])


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
