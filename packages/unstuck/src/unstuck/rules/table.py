"""The table of all rules, and what they find."""

from collections.abc import Sequence
from dataclasses import replace

from unstuck.findings import Finding, Severity
from unstuck.language import _
from unstuck.language.warning import warn
from unstuck.measure.measurement import Measurement
from unstuck.rules import (  # noqa: F401 - their decorators fill the table
    attention,
    collapse,
    copies,
    gradient,
    indices,
    inputs,
    layers,
    loss,
    modes,
    noise,
    numbers,
    pairs,
    samples,
    standstill,
    steps,
    structure,
    terms,
    tokens,
    units,
    updates,
    visible,
)
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import TABLE, Found, Rule
from unstuck.wording import in_one_line

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES = tuple(TABLE[code] for code in sorted(TABLE))
"""All rules, by code."""


def find(measurements: Sequence[Measurement], *, ends: bool = True) -> tuple[Finding, ...]:
    """At most one finding for each rule: errors, then warnings, then notes, without those that another one explains.

    Of one severity, mistakes in the code come before their effects.

    The measurements are of one training, latest last, or a single one. The latest is judged. The earlier ones tell how
    large the updates were, and since when numbers are not finite. `ends` is False while a training runs.
    """
    if not measurements:
        return ()
    evidence = Evidence(measurements, ends)
    found = [(rule, x) for rule in RULES if (x := _checked(rule, evidence)) is not None]
    if standstill.fitted(evidence):
        text = _(" The loss is small nevertheless.")
        found = [(r, replace(x, message=x.message + text, severity=NOTE) if r.signal else x) for r, x in found]
    reported = {rule.id for rule, result in found if (result.severity or rule.severity) is not NOTE}
    findings = []
    for rule, x in found:
        if x.severity is NOTE and not reported.isdisjoint(rule.explains):
            x = replace(x, message=x.message + _(" The steps are too large for them."), severity=WARNING)
        if reported.isdisjoint(rule.hidden_by):
            severity, name, remedy = x.severity or rule.severity, _(rule.name), _(x.remedy or rule.remedy)
            finding = Finding(rule.id, name, severity, x.layers, x.value, x.threshold, x.message, remedy, shown=x.shown)
            findings.append(((ERROR, WARNING, NOTE).index(severity), not rule.mistake, finding))
    return tuple(finding for *_, finding in sorted(findings, key=lambda found: found[:2]))


def _checked(rule: Rule, evidence: Evidence) -> Found | None:
    """What a rule finds: if the training stood still, also in the first measurement, and its note is a warning.

    A bug of ours ends neither the diagnosis nor the user's program.
    """
    try:
        found = rule.check(evidence)
        if rule.stalls and standstill.stalled(evidence):
            found = found or rule.check(Evidence(evidence.measurements[:1]))
            if found is not None and found.severity is NOTE:
                return replace(found, message=found.message + _(" The loss has stood still."), severity=WARNING)
        return found
    except Exception as error:
        reason = f"{type(error).__name__} {in_one_line(error)}".rstrip()
        warn(_("A bug in unstuck keeps {rule} from judging: please report it ({reason})", rule=rule.id, reason=reason))
        return None
