"""Which findings a trial proves, whether the training learns at all, and what makes it learn if no rule knows."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from unstuck.findings import LEARNS, NONE_TRIED, POINTS, STANDS, STEPS, Finding, Severity, Trial, Trials
from unstuck.language import _
from unstuck.rules import RULES
from unstuck.rules.rule import TABLE
from unstuck.rules.standstill import NEAR_CHANCE
from unstuck.trials.edits import GENERAL, NOTHING, Edit, edits
from unstuck.trials.recording import NotTriedError, Recording
from unstuck.trials.training import train
from unstuck.wording import in_one_line

SLOW, RISES = 0.8, 1.1
"""A training of which more of the loss is left than the first share may have steps that are too small or too large, and
hardly too small ones if more is left than the second."""
SECONDS = 10.0
"""What trials may take, about."""
FEWEST = 20
"""Steps of a trial, at least."""
OWN_SHARE = 0.3
"""Share of the time for the training as it was recorded."""
HELPS, FALLS, BETTER, TIMES, LEARNT, FAR = 0.75, 0.9, 0.6, 2.0, 0.1, 20.0
"""An edit helps if no more than the first share of the loss is left (the second, where it is never finite or never
moves without), and no more than the third of what is left without it, or if the loss falls so many times as far; but
where no more than the fifth share is left without it, only a cause of its own does, which leaves so many times less. It
reveals what a training should not see if so many times as much is left."""
ARITHMETIC = frozenset({"US303", "US304", "US401", "US501", "US504", "US602"})
"""Errors that are facts, whether or not an edit learns better."""
SIGNALS = frozenset(rule.id for rule in RULES if rule.signal)
"""Rules that say that a network cannot learn because of its signals; they are wrong where it learns."""


def tried(
    findings: Sequence[Finding], recording: Recording, seconds: float, chance: float = math.inf
) -> tuple[tuple[Finding, ...], Trials]:
    """The findings with their trials, proved ones first, and what the trials tell beside them.

    Severity follows proof: an error whose trial, if it had the time, learns no better is a warning, a large rate then a
    note if smaller ones stand still; and what a rule says of the signals of a network that learns is a note.

    Args:
        findings: of the rules.
        recording: of the training.
        seconds: that the trials may take, about.
        chance: the cross-entropy of equal outputs: to come near it from far above is not to learn.
    """
    try:
        tries = Tries(recording, seconds, clears=all(finding.rule != "US305" for finding in findings))
    except NotTriedError as error:
        return tuple(findings), Trials(missing=str(error))
    learns = tries.learns(chance)
    harmless = tries.own_left <= LEARNT  # what looks like a mistake, whatever the optimizer

    def weighed(finding: Finding) -> Finding:
        fine = learns or (harmless and TABLE[finding.rule].mistake)
        return _weighed(finding, tries.of(finding.rule), fine)

    if tries.trained <= STANDS < tries.own_left:
        missing = _("trained again, the recorded steps do not learn as the training did")
        return tuple(_weighed(f, None, learns) for f in findings), Trials(missing=missing)
    results = [f if f.severity is Severity.NOTE else weighed(f) for f in findings]
    proved = [f for f in results if f.trial is not None and f.trial.proved]
    others = sorted((f for f in results if f not in proved), key=lambda f: list(Severity).index(f.severity))
    cause = None
    slow = SLOW if len(tries.before) > STEPS else STANDS  # fewer steps leave more
    if tries.trained > SLOW and tries.own_left > slow and not proved:  # of the training itself; False: not known
        edit, cause = tries.search()
        rises = edit is not None and edit.rate > 1.0 and tries.own_left > RISES
        if edit and cause and edit.rate != 1.0 and not rises and cause.after[-1] <= LEARNS * cause.after[0]:
            proved, cause = [_of_rate(edit, cause)], None
            others = [f for f in others if f.rule != proved[0].rule]
        elif tries.trained <= STANDS or tries.own_left <= STANDS:
            cause = None
    trials = Trials(len(tries.before) - 1, _thinned(tries.before), tries.own_left, "", cause)
    loud = any(finding.severity is not Severity.NOTE for finding in (*findings, *proved))
    silent = math.isnan(tries.trained) and not loud and tries.own_left > LEARNS  # it may be trained already
    return (*proved, *others), NONE_TRIED if silent else trials


def _weighed(finding: Finding, trial: Trial | None, learns: bool) -> Finding:
    """A finding with its trial, and the severity that is left of it."""
    severity = finding.severity
    if trial is None or not trial.proved:
        if learns and finding.rule in SIGNALS:
            severity = Severity.NOTE
        elif severity is Severity.ERROR and finding.rule in ARITHMETIC:
            trial = None
        elif trial is not None and trial.steps == STEPS:
            refuted = (
                finding.rule == "US302" and trial.after[-1] > STANDS * trial.before[0]
            )  # smaller steps stand still
            severity = Severity.NOTE if refuted else Severity.WARNING
    return replace(finding, trial=trial, severity=severity)


def _of_rate(edit: Edit, trial: Trial) -> Finding:
    """A finding that a trial makes: the steps of the training are too small, or too large."""
    rule = TABLE["US302" if edit.rate < 1.0 else "US301"]
    text = _("The training stands still, and learns {edit}.", edit=edit.words)
    return Finding(rule.id, _(rule.name), Severity.WARNING, (), edit.rate, 1.0, text, _(rule.remedy), trial=trial)


class Tries:
    """Trials of one recording, each edit once.

    Args:
        recording: of the training; it is first trained as it was recorded.
        seconds: that the trials may take, about.
        clears: gradients are cleared before every step.

    Raises:
        NotTriedError: this is not possible, or tells nothing.
    """

    def __init__(self, recording: Recording, seconds: float, *, clears: bool = True) -> None:
        if recording.missing:
            raise NotTriedError(recording.missing)
        for step in recording.steps:
            for reason in step.unfollowed:
                raise NotTriedError(_("the step has {what}", what=reason))
            if not step.losses:
                raise NotTriedError(_("no loss was seen"))
        torch.optim.SGD([torch.zeros((), requires_grad=True)])  # what PyTorch imports for the first takes seconds
        started = time.perf_counter()
        self._recording, self._clears, self._until = recording, clears, started + seconds
        self._done: dict[str, tuple[float, Trial] | None] = {}
        try:
            self.before = train(recording, Edit("", clears=clears), STEPS, started + OWN_SHARE * seconds)
        except Exception as error:  # a step that cannot run again: of whatever kind
            raise NotTriedError(_("the step cannot run again ({reason})", reason=in_one_line(error))) from error
        if len(self.before) <= FEWEST:
            room = {"count": FEWEST, "room": OWN_SHARE * seconds, "seconds": seconds}
            text = _("{count} steps do not fit into {room:.1f} of {seconds:.0f} s: use monitor.diagnosis(60)", **room)
            raise NotTriedError(text)

    @property
    def own_left(self) -> float:
        """The share of the loss that is left without an edit; nan if it can be below 0, or is not finite at first."""
        known = math.isfinite(self.before[0]) and not any(loss < 0 for loss in self.before)
        return self.left(self.before, self.before[0]) if known else math.nan

    @property
    def trained(self) -> float:
        """The share of the loss of the recorded steps that the training itself has left; nan: not known."""
        first = self.before[0]
        return self._recording.last / first if 0 < first < math.inf else math.nan

    def learns(self, chance: float) -> bool:
        """Whether a training learns, in the trial or so far; to fall to chance is no learning."""
        limit = min(LEARNS, NEAR_CHANCE * chance / self.before[0]) if self.before[0] > 0 else LEARNS
        return not math.isnan(self.trained) and min(self.own_left, self.trained) <= limit

    def of(self, rule: str) -> Trial | None:
        """The first trial of the edits of a rule that proves it, or the best; None if there is none."""
        found = []
        for edit in (edit for edit in edits(self._recording) if rule in edit.proves):
            if (result := self.run(edit)) is not None:
                found.append(result)
                if result[1].proved:
                    return result[1]
        return min(found, key=lambda result: result[0], default=(0.0, None))[1]

    def search(self) -> tuple[Edit | None, Trial | None]:
        """The best edit with which it learns, of those that there is time for; an easier loss is no proof.

        Other rates come first, which fit most trainings.
        """
        own = (e for e in edits(self._recording) if not (e.loss == "easier" or e.reveals) and e.clears is None)
        proved = []
        for edit in sorted(own, key=lambda edit: abs(math.log(edit.rate)) or (2.5 if edit.adam else math.inf)):
            if (result := self.run(edit)) is not None and result[1].proved:
                proved.append((*result, edit))
                if edit.rate != 1.0 and result[0] <= LEARNS:
                    break
        _left, trial, best = min(proved, key=lambda r: (r[2].adam, r[2].rank(r[0])), default=(0.0, None, None))
        return best, trial

    def left(self, losses: Sequence[float], first: float) -> float:
        """The share of the loss that is left at the end: of the last pass over the recorded steps."""
        last = losses[-max(1, min(len(self._recording.steps), len(losses) // 2)) :]
        mean = math.fsum(last) / len(last) if all(map(math.isfinite, last)) else math.inf
        return mean / first if first > 0 else math.inf if mean > 0 else 0.0

    def run(self, edit: Edit) -> tuple[float, Trial] | None:
        """What an edit leaves of the loss, and its trial; None if it does not fit, or there is no time."""
        if edit.words not in self._done:
            self._done[edit.words] = self._tried(edit)
        return self._done[edit.words]

    def _tried(self, edit: Edit) -> tuple[float, Trial] | None:
        if time.perf_counter() > self._until:
            return None
        clears = self._clears if edit.clears is None else edit.clears
        try:
            after = train(self._recording, replace(edit, clears=clears), len(self.before) - 1, self._until)
        except Exception:  # the edit does not fit: whatever PyTorch says
            return None
        comparable, before = not math.isnan(self.own_left) and not edit.loss, _thinned(self.before)
        if len(after) < len(self.before) or not math.isfinite(after[0]):
            return None
        if math.isnan(self.own_left) and not edit.loss and math.isfinite(self.before[0]):  # it may be below 0
            lasts = not math.isfinite(self.before[-1]) and all(map(math.isfinite, after)) and after[-1] < after[0]
            return (HELPS, Trial(edit.words, len(after) - 1, before, _thinned(after), proved=True)) if lasts else None
        was = math.inf if math.isnan(self.own_left) else self.own_left
        now = self.left(after, self.before[0] if comparable else after[0])
        better = now <= BETTER * was or 1 - now >= TIMES * (1 - was)
        still = math.isclose(was, 1.0, rel_tol=1e-4) or not any(map(math.isfinite, self.before))
        helps = now <= (FALLS if still else HELPS)
        falls = self.left(after, after[0]) <= FALLS  # else only the level of the loss is another one
        far = was > NOTHING and edit.weight < GENERAL and edit.loss != "easier" and now * FAR <= was
        proved = helps and falls and better and (was > LEARNT or far) and not any(loss < 0 for loss in after)
        if edit.reveals:
            proved = was <= LEARNS and now >= TIMES * was
        return now, Trial(edit.words, len(after) - 1, before, _thinned(after), proved)


def _thinned(losses: Sequence[float]) -> tuple[float, ...]:
    places = torch.linspace(0, len(losses) - 1, min(POINTS, len(losses))).round().int().tolist()
    return tuple(losses[i] for i in places)
