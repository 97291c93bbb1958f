"""The report of `mend`: changes, remaining findings, and the diagnosis before and after."""

from dataclasses import dataclass

from sigmoidcore._language import _, terminal
from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.judgement import Judgement

SHOWN = 12
"""Changes that are printed."""


@dataclass(frozen=True)
class Change:
    """One change to a model."""

    what: str  # "drawn", "converted", "prepared", "opened" or "calibrated"
    where: str  # names of the layers, or their number
    how: str  # the values before and after


@dataclass(frozen=True)
class Left:
    """A finding that remains."""

    rule: str  # its code, such as "SC202"
    where: str  # its name and the layers
    why: str  # why nothing was done or helped, and the next step for the user


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
        changes = self.done[:SHOWN]
        rows = [(word(change.what), _("{where}: {how}", where=change.where, how=change.how)) for change in changes]
        if len(self.done) > SHOWN:
            rows.append(("", _("and {count} more, see .done", count=len(self.done) - SHOWN)))
        rows += [(_("left"), _("{rule} {where}: {why}", **vars(left))) for left in self.left]
        rows += [(_("note"), note) for note in self.notes]
        rows += [(_("train"), self.train)] if self.train else []
        rows += [(_("before"), summary(self.before)), *([(_("after"), summary(self.after))] if self.done else [])]
        lines = [_("mended") if self.done else _("nothing was mended: the model is as it was")]
        for label, text in rows:
            label += " " * (10 - terminal.text_width(label))
            lines += terminal.wrapped(text, terminal.width(), f"  {label}  ", " " * 14)
        return terminal.writable("\n".join(lines))


def word(what: str) -> str:
    """The kind of a change in the user's language."""
    return {
        "drawn": _("drawn"),
        "converted": _("converted"),
        "prepared": _("prepared"),
        "opened": _("opened"),
        "calibrated": _("calibrated"),
    }[what]


def summary(diagnosis: Judgement) -> str:
    """One line: findings, loss, spread."""
    measurement, profile = diagnosis.measurement, diagnosis.measurement.profile
    broken = [f for f in diagnosis.findings if f.severity is not Severity.NOTE]
    parts = [_(", ").join(f"{f.rule} {_(f.name)}" for f in broken) or _("healthy")]
    parts += [] if measurement.loss is None else [_("loss {loss}", loss=f"{measurement.loss:.4g}")]
    parts += [_("spread {spread}", spread=f"{profile.spread:.3g}")] if len(profile.names) > 1 else []
    return _("; ").join(parts)
