"""Findings, and gaps between them: the results of the rules."""

from dataclasses import dataclass
from enum import StrEnum

from unstuck.language import _


class Severity(StrEnum):
    """Severity of a finding. A network with errors or warnings is called broken; notes are facts worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        rule: stable identifier, such as "US101"; docs/rules.md has a section for each.
        name: of the rule, such as "vanishing gradient".
        severity: see `Severity`.
        layers: names of the affected layers (for rules about weights: of the parameters), worst first.
        value: the worst number.
        threshold: the limit for this number.
        message: what is wrong, one or two sentences with names and numbers.
        remedy: what to do, in words.
        call: the code that repairs it, or None.
    """

    rule: str
    name: str
    severity: Severity
    layers: tuple[str, ...]
    value: float
    threshold: float
    message: str
    remedy: str
    call: str | None = None


@dataclass(frozen=True)
class Gap:
    """Something that the rules could not judge: without a finding, it may be wrong all the same."""

    what: str  # a noun, such as "step sizes"
    why: str  # the reason, in a few words
    decisive: bool = False  # a network is not called healthy without it

    def __str__(self) -> str:
        return _("{what} ({why})", what=self.what, why=self.why)
