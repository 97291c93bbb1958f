"""A rule, and what it finds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.rules.evidence import Evidence


@dataclass(frozen=True)
class Found:
    """What a rule's check found; the rule adds what is the same every time.

    Attributes:
        layers: names of layers or parameters, worst first.
        value: the worst number.
        threshold: what it was compared with.
        message: one or two sentences.
        severity: None: the rule's.
        remedy: None: the rule's.
        call: that mends it, or None.
    """

    layers: tuple[str, ...]
    value: float
    threshold: float
    message: str
    severity: Severity | None = None
    remedy: str | None = None
    call: str | None = None


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong. docs/rules.md is made of these fields.

    Attributes:
        id: stable; the hundreds group: SC1 gradient, SC2 neurons, SC3 updates, SC4 numbers, SC5 structure, SC6 loss.
        name: in two to five words.
        severity: that a finding has, unless its message says more.
        formula: what is compared, Markdown with LaTeX.
        thresholds: by the name that they have in the formula.
        source: where the thresholds come from.
        why: what it means, and which healthy networks look alike and are left alone.
        remedy: in words.
        example: Python that builds a network that the rule names; "" if it takes a training.
        check: finds it, or gives None.
        without_cores: the remedy where no core can be made; "": the same.
        hidden_by: rules whose errors and warnings explain this one, so that it is not reported beside them.
    """

    id: str
    name: str
    severity: Severity
    formula: str
    thresholds: Mapping[str, float]
    source: str
    why: str
    remedy: str
    check: Callable[[Evidence], Found | None] = field(repr=False)
    example: str = ""
    without_cores: str = ""
    hidden_by: tuple[str, ...] = ()

    def find(self, evidence: Evidence) -> Finding | None:
        """The finding, or None."""
        found = self.check(evidence)
        if found is None:
            return None
        return Finding(
            rule=self.id,
            name=self.name,
            severity=found.severity or self.severity,
            layers=found.layers,
            value=found.value,
            threshold=found.threshold,
            message=found.message,
            remedy=found.remedy or self.remedy,
            call=found.call,
        )
