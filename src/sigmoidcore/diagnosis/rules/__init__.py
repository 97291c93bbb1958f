"""The rules: what can be wrong with a network, from the measurements alone. docs/rules.md lists them."""

from collections.abc import Sequence

from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.rules import gradient, loss, numbers, structure, time, units, updates
from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found, Rule

__all__ = ["RULES", "Found", "Rule", "find"]

RULES: tuple[Rule, ...] = (
    gradient.VANISHING,
    gradient.EXPLODING,
    time.VANISHING,
    time.EXPLODING,
    units.SATURATION,
    units.DEAD_UNITS,
    units.COLLAPSE,
    units.SHARP_ATTENTION,
    units.OFFSET_INPUTS,
    updates.TOO_SMALL,
    updates.TOO_LARGE,
    numbers.NONFINITE,
    numbers.NEAR_THE_END,
    numbers.UNDERFLOW,
    structure.NO_GRADIENT,
    structure.ZERO_GRADIENT,
    structure.ALIKE,
    structure.STRAY,
    loss.MISREAD,
)
"""All rules, by id."""

_ORDER = (Severity.ERROR, Severity.WARNING, Severity.NOTE)


def find(measurements: Sequence[Measurement]) -> tuple[Finding, ...]:
    """What is wrong: errors, then warnings, then notes; within each by rule.

    Args:
        measurements: of one training, latest last, or a single one. The latest is judged; the earlier ones say
            how large the updates were, and since when numbers are not finite.

    Returns:
        At most one finding for each rule. What another finding explains is left out, see `Rule.hidden_by`.
    """
    if not measurements:
        return ()
    evidence = Evidence(measurements)
    found = [(rule, finding) for rule in RULES if (finding := rule.find(evidence)) is not None]
    told = {finding.rule for _, finding in found if finding.severity is not Severity.NOTE}
    shown = [finding for rule, finding in found if told.isdisjoint(rule.hidden_by)]
    return tuple(sorted(shown, key=lambda finding: _ORDER.index(finding.severity)))
