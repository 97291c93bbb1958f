"""The report of `mend`: what was done to a model, what was left and why, and its diagnosis before and after."""

import textwrap
from dataclasses import dataclass

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.report import terminal

SHOWN = 12
"""Changes that are printed."""


@dataclass(frozen=True)
class Change:
    """One change to a model or its optimizer.

    Attributes:
        what: "converted", "opened", "calibrated" or "rates".
        where: names of the layers, or their number.
        how: the values before and after.
    """

    what: str
    where: str
    how: str


@dataclass(frozen=True)
class Left:
    """A finding that remains.

    Attributes:
        rule: its code, such as "SC202".
        where: its name and the layers.
        why: why nothing was done, or why it did not help, and what else can be done.
    """

    rule: str
    where: str
    why: str


@dataclass(frozen=True, eq=False)
class Mending:
    """The report of `Diagnosis.mend`; `print` it.

    Attributes:
        before: the diagnosis of the model before, on this batch.
        after: the diagnosis of the model now, on the same batch.
        done: the changes; empty if the model is as before.
        left: the findings that remain.
        notes: further remarks.
    """

    before: Judgement
    after: Judgement
    done: tuple[Change, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What was done, what was left and why, then before and after; as wide as the terminal, but for names."""
        return terminal.writable("\n".join(self._lines(terminal.width())))

    def _lines(self, width: int) -> list[str]:
        lines = ["mended" if self.done else "nothing was mended: the model is as it was"]
        for change in self.done[:SHOWN]:
            lines += _wrapped(f"  {change.what:<10}  ", f"{change.where}: {change.how}", width)
        if len(self.done) > SHOWN:
            lines.append(f"  {'':<10}  and {len(self.done) - SHOWN} more, see .done")
        for left in self.left:
            lines += _wrapped(
                f"  {'left':<10}  ", " ".join(p for p in (left.rule, f"{left.where}:", left.why) if p), width
            )
        for note in self.notes:
            lines += _wrapped(f"  {'note':<10}  ", note, width)
        lines += _wrapped("  before      ", summary(self.before), width)
        if self.done:
            lines += _wrapped("  after       ", summary(self.after), width)
        return lines


def summary(diagnosis: Judgement) -> str:
    """One line: findings, loss, spread."""
    findings = [f"{f.rule} {f.name}" for f in diagnosis.findings if f.severity is not Severity.NOTE]
    said = ", ".join(findings) if findings else "healthy"
    measurement = diagnosis.measurement
    if measurement.loss is not None:
        said += f"; loss {measurement.loss:.4g}"
    profile = measurement.profile
    return f"{said}; spread {profile.spread:.3g}" if len(profile.names) > 1 else said


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
