"""A rule, and the result of its check."""

from collections.abc import Callable
from dataclasses import dataclass, field

from unstuck.findings import Severity
from unstuck.rules.evidence import Evidence


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
    shown: bool = False


def shown(text: str, remedy: str | None = None, severity: Severity | None = None, value: float = 1.0) -> Found:
    """What the numbers of a recorded step show that was run again, with other inputs if it takes some."""
    return Found((), value, 0.0, text, remedy, severity, shown=True)


Check = Callable[[Evidence], Found | None]
"""Returns what it found, or None; docs/rules.toml has the section of its rule in docs/rules.md."""


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a network."""

    id: str  # stable code; its first digit: gradient, neurons, updates, numbers, structure, loss, dependence
    name: str  # two to five words
    severity: Severity  # of a finding, unless the check decides otherwise
    check: Check = field(repr=False)
    remedy: str  # one sentence with the next step for the user, unless the check has a better one
    hidden_by: tuple[str, ...] = ()  # rules that explain this one: it is left out after their error or warning
    mistake: bool = False  # it names a mistake in the code: reported before effects of the same severity
    signal: bool = False  # it tells why little would be learned: a note if the loss is small nevertheless
    stalls: bool = False  # it explains why nothing is learned: its note is a warning then
    explains: tuple[str, ...] = ()  # rules after whose error or warning its note is a warning, too


TABLE: dict[str, Rule] = {}
"""The rules by code, in the order of their import."""


def rule(
    code: str,
    name: str,
    *,
    severity: Severity = Severity.WARNING,
    remedy: str,
    hidden_by: tuple[str, ...] = (),
    mistake: bool = False,
    signal: bool = False,
    stalls: bool = False,
    explains: tuple[str, ...] = (),
) -> Callable[[Check], Check]:
    """Make a rule of a check; the arguments are the fields of `Rule`."""

    def add(check: Check) -> Check:
        TABLE[code] = Rule(code, name, severity, check, remedy, hidden_by, mistake, signal, stalls, explains)
        return check

    return add
