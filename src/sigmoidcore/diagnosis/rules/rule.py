"""A rule, and the result of its check."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.rules.evidence import Evidence


@dataclass(frozen=True)
class Found:
    """The result of a check, with the fields of a `Finding`. The rule adds its code, its name and its defaults.

    Message and remedy have at most three sentences together. A message is `_("... {name} ...", name=...)`, so that it
    can be translated; remedies are constants in capitals.
    """

    layers: tuple[str, ...]
    value: float
    threshold: float
    message: str
    remedy: str | None = None
    severity: Severity | None = None


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a network.

    Attributes:
        id: stable code. Its first digit is the group: SC1 gradient, SC2 neurons, SC3 updates, SC4 numbers, SC5
            structure, SC6 loss.
        name: two to five words.
        severity: of a finding, unless the check decides otherwise.
        check: returns its result, or None. Its docstring is the rule's section in docs/rules.md.
        remedy: one sentence with the next step for the user, unless the check has a better one.
        mistake: it names a mistake in the code, and not an effect: reported before effects of the same severity.
        hidden_by: codes of rules that explain this one. If one of them gives an error or a warning, this rule's finding
            is left out.
    """

    id: str
    name: str
    severity: Severity
    check: Callable[[Evidence], Found | None] = field(repr=False)
    remedy: str
    hidden_by: tuple[str, ...] = ()
    mistake: bool = False
