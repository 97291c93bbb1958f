"""A diagnosis as text: the verdict, the findings with their remedies, then the layers."""

from collections import Counter

from unstuck.findings import STANDS, Finding, Judgement, Severity
from unstuck.language import _
from unstuck.language.terminal import DEFAULT, printable, shortened, wrapped
from unstuck.report.layers import layer_rows
from unstuck.report.trials import by_heart, trial_text, trials_lines
from unstuck.wording import counted, few

NAMES, NAME_WIDTH = 4, 36
"""Layers that are named under a finding, the others are counted; columns of a name."""
NOTES = 5


def to_text(judgement: Judgement, width: int = DEFAULT) -> str:
    """Plain text in lines of at most `width` columns, 40 or more, for any number of layers and any names.

    Only a statement of a call may be wider, so that it can be copied.
    """
    measurement, findings = judgement.measurement, judgement.findings
    more = [_("and {count} more in diagnosis.measurement.notes", count=f"{len(measurement.notes) - NOTES:,}")]
    shown = (*measurement.notes[:NOTES], *(more if len(measurement.notes) > NOTES else ()))
    notes = [line for note in shown for line in wrapped(note, width, "  - ", "    ")]
    blocks = [
        [part for line in head(judgement) for part in wrapped(line, width)],
        *(finding_lines(finding, width) for finding in findings),
        layer_rows(measurement, findings, width) if measurement.layers else [],
        [_("not seen:"), *notes] if notes else [],
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks if block)


def verdict(judgement: Judgement) -> str:
    """The findings in one line, and the number of layers."""
    count = len(judgement.measurement.layers)
    severities = Counter(finding.severity for finding in judgement.findings)
    found = _(", ").join(counted(severities[s], s.value) for s in Severity if severities[s]) or _("nothing found")
    values = {"found": found, "layers": counted(count, "layer") if count else _("no layers")}
    if not judgement.healthy:
        return _("{found} in {layers}", **values)
    if not count:
        return _("no layers were seen, {found}", found=found)
    fails = judgement.trials.steps and judgement.trials.left > STANDS and judgement.measurement.comparisons
    if fails or by_heart(judgement):
        return _("{found} in {layers}, and yet it does not learn", **values)
    if gaps := [str(gap) for gap in judgement.gaps if gap.decisive]:
        return _("{found} in {layers}, but not judged: {gap}", gap=few(gaps, 1), **values)
    return _("healthy: {layers}, {found}", **values)


def head(judgement: Judgement) -> list[str]:
    """The verdict, what was measured, the steps of a training, and what was not judged."""
    measurement, history = judgement.measurement, judgement.history
    facts = [counted(measurement.samples, "sample")]
    if measurement.ranks > 1:
        facts.append(_("{count} processes", count=f"{measurement.ranks:,}"))
    if measurement.loss is not None:
        function = f" ({measurement.loss_functions})" if measurement.loss_functions else ""
        facts.append(_("loss {loss}{function}", loss=f"{measurement.loss:.4g}", function=function))
    if len(measurement.profile.names) > 1:
        facts.append(_("gradient spread {spread}", spread=f"{measurement.profile.spread:.4g}"))
    lines = [verdict(judgement), _(", ").join(facts)]
    if len(history) > 1:
        times, first, last = (f"{count or 0:,}" for count in (len(history), history[0].step, history[-1].step))
        line = _("measured {times} times from step {first} to {last}; numbers below are of the last",
                 times=times, first=first, last=last)  # fmt: skip
        lines.append(_(", ").join([*([counted(judgement.steps, "step")] if judgement.steps else []), line]))
    elif measurement.step is not None:
        lines.append(_("measured at step {step}", step=f"{measurement.step:,}"))
    lines += trials_lines(judgement)
    if measurement.layers and judgement.gaps:
        lines.append(_("not judged: {gaps}", gaps=_(", ").join(map(str, judgement.gaps))))
    return lines


def finding_lines(finding: Finding, width: int) -> list[str]:
    """A finding with its remedy and its call."""
    lines = wrapped(title(finding), width)
    lines += wrapped(finding.message, width, "  ")
    if len(finding.layers) > 1 and any(f"`{x}`" not in finding.message for x in finding.layers[:2]):
        names = [shortened(printable(name), NAME_WIDTH) or _("(the model)") for name in finding.layers]
        lines += wrapped(_("in {names}", names=few(names, NAMES)), width, "  ")
    if finding.shown:
        lines += wrapped(_("Shown by running the recorded step again."), width, "  ")
    if finding.trial is not None:
        lines += wrapped(trial_text(finding.trial), width, "  ")
    lines += wrapped(finding.remedy, width, "  → ", "    ")
    if finding.call is not None:
        lines += ["", *(f"      {printable(line)}" for line in finding.call.split("\n"))]
    return lines


def title(finding: Finding) -> str:
    """Code, severity and name of a finding."""
    return _("{rule} {severity}: {name}", rule=finding.rule, severity=_(finding.severity.value), name=finding.name)
