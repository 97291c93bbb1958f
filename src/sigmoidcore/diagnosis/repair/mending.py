"""The report of `mend`: changes, remaining findings, and the diagnosis before and after."""

from dataclasses import dataclass

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.report import terminal

SHOWN = 12
"""Changes that are printed."""


@dataclass(frozen=True)
class Change:
    """One change to a model.

    Attributes:
        what: "drawn", "converted", "prepared", "opened" or "calibrated".
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
        why: why nothing was done or helped, and the next step for the user.
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
        train: a statement that makes the optimizer with which the loss fell in a trial; None without one.
    """

    before: Judgement
    after: Judgement
    done: tuple[Change, ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()
    train: str | None = None

    def __str__(self) -> str:
        """Changes, remaining findings, and the diagnosis before and after, as wide as the terminal."""
        rows = [(change.what, f"{change.where}: {change.how}") for change in self.done[:SHOWN]]
        if len(self.done) > SHOWN:
            rows.append(("", f"and {len(self.done) - SHOWN} more, see .done"))
        rows += [("left", f"{left.rule} {left.where}: {left.why}") for left in self.left]
        rows += [("note", note) for note in self.notes]
        rows += [("train", self.train)] if self.train else []
        rows += [("before", summary(self.before)), *([("after", summary(self.after))] if self.done else [])]
        lines = ["mended" if self.done else "nothing was mended: the model is as it was"]
        for label, text in rows:
            lines += terminal.wrapped(text, terminal.width(), f"  {label:<10}  ", " " * 14)
        return terminal.writable("\n".join(lines))


def summary(diagnosis: Judgement) -> str:
    """One line: findings, loss, spread."""
    measurement, profile = diagnosis.measurement, diagnosis.measurement.profile
    text = ", ".join(f"{f.rule} {f.name}" for f in diagnosis.findings if f.severity is not Severity.NOTE) or "healthy"
    text += "" if measurement.loss is None else f"; loss {measurement.loss:.4g}"
    return f"{text}; spread {profile.spread:.3g}" if len(profile.names) > 1 else text
