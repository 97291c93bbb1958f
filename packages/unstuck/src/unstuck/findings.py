"""The results of the rules and of the trials, and the measurements that they judge. Data only."""

from dataclasses import dataclass
from enum import StrEnum

from unstuck.language import _
from unstuck.measure.measurement import Measurement, Subject


class Severity(StrEnum):
    """Severity of a finding. A network with errors or warnings is called broken; notes are facts worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Trial:
    """Recorded steps of a training, trained again on copies of the weights: as they were, and with one edit.

    Attributes:
        edit: what was different, in words.
        steps: number of steps of each of the two trainings.
        before: the loss after each step as it was recorded, thinned to at most `POINTS`.
        after: the loss with the edit.
        proved: it learns with the edit, and does not without.
    """

    edit: str
    steps: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    proved: bool


POINTS = 33
"""Numbers that are kept of a loss."""
STEPS = 100
"""Of a trial; fewer if its time ends before."""
LEARNS, STANDS = 0.5, 0.9
"""A training learns if its loss falls to less than this share; if more than the second is left, it stands still."""


@dataclass(frozen=True)
class Trials:
    """What trials tell beside single findings.

    Attributes:
        steps: number of steps of the training as it was recorded; 0 if there was none.
        losses: its loss after each step, thinned to at most `POINTS`.
        left: the share of the loss that was left; nan if the loss can be below 0.
        missing: why nothing was tried; "" if something was.
        cause: an edit with which it learns, if it does not and no finding is proved.
    """

    steps: int = 0
    losses: tuple[float, ...] = ()
    left: float = 1.0
    missing: str = ""
    cause: Trial | None = None


NONE_TRIED = Trials()


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
        trial: what a trial of the cause gave, or None.
        shown: a recorded step was run again, with other inputs if it takes some, and did what the message says.
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
    trial: Trial | None = None
    shown: bool = False


@dataclass(frozen=True)
class Gap:
    """Something that the rules could not judge: without a finding, it may be wrong all the same."""

    what: str  # a noun, such as "step sizes"
    why: str  # the reason, in a few words
    decisive: bool = False  # a network is not called healthy without it

    def __str__(self) -> str:
        return _("{what} ({why})", what=self.what, why=self.why)


@dataclass(frozen=True, eq=False, repr=False)
class Judgement:
    """The data of a `Diagnosis`, which explains them; reports take it."""

    measurement: Measurement
    findings: tuple[Finding, ...]
    history: tuple[Measurement, ...] = ()
    subject: Subject | None = None
    gaps: tuple[Gap, ...] = ()
    trials: Trials = NONE_TRIED
    steps: int = 0

    @property
    def healthy(self) -> bool:
        """Whether there are neither errors nor warnings in what was judged; `gaps` has the rest."""
        return all(f.severity is Severity.NOTE for f in self.findings)
