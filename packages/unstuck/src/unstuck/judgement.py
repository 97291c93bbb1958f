"""A judgement: the measurements of a network and the findings of the rules. Data only."""

from dataclasses import dataclass

from unstuck.findings import NONE_TRIED, Finding, Gap, Severity, Trials
from unstuck.measure.measurement import Measurement, Subject


@dataclass(frozen=True, eq=False, repr=False)
class Judgement:
    """The data of a `Diagnosis`, which explains them; reports and repairs take it."""

    measurement: Measurement
    findings: tuple[Finding, ...]
    history: tuple[Measurement, ...] = ()
    subject: Subject | None = None
    gaps: tuple[Gap, ...] = ()
    trials: Trials = NONE_TRIED

    @property
    def healthy(self) -> bool:
        """Whether there are neither errors nor warnings in what was judged; `gaps` has the rest."""
        return all(f.severity is Severity.NOTE for f in self.findings)
