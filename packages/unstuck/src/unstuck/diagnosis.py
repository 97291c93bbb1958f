"""The diagnosis of a network: what was measured, what is wrong, and what to do."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from unstuck.findings import NONE_TRIED, Judgement
from unstuck.language import terminal
from unstuck.measure.measurement import Layer, Measurement, Subject
from unstuck.remedies import findings_of
from unstuck.report.json import from_json, to_json
from unstuck.report.page import to_html, to_notebook
from unstuck.report.text import to_text, verdict
from unstuck.rules import gaps
from unstuck.rules.evidence import Evidence
from unstuck.rules.standstill import chance
from unstuck.trials import Recording, tried


class Diagnosis(Judgement):
    """The result of `diagnose` or of a `Monitor`; `print` it.

    It holds the model and the batch, which live as long as it does; `dataclasses.replace(d, subject=None)` drops them.

    Attributes:
        measurement: the latest.
        findings: worst first.
        history: all measurements of a `Monitor`, the latest included; else empty.
        subject: the model and its batch, or None.
        gaps: what could not be judged, with the reason.
        trials: whether it learns when the recorded steps are trained again, and what makes it learn.
        steps: of the training so far that a `Monitor` watches, measured or not.

    Example:
        >>> import torch
        >>> import unstuck
        >>> from torch import nn
        >>> model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.Sigmoid())])
        >>> d = unstuck.diagnose(model, torch.randn(64, 16))
        >>> d
        <Diagnosis: 1 error in 60 layers>
        >>> d.findings[0].name
        'vanishing gradient'
    """

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order in which they ran; `pandas.DataFrame(map(vars, d.layers))` is a table of them."""
        return self.measurement.layers

    def __str__(self) -> str:
        """Findings first, then the worst layers.

        The text is as wide as the terminal, from 40 to 100 columns, or 80 without one. It is ASCII if the encoding of
        standard output has no block characters.
        """
        return terminal.writable(to_text(self, terminal.width()))

    def __repr__(self) -> str:
        return terminal.writable(f"<Diagnosis: {verdict(self)}>")

    def _repr_html_(self) -> str:
        """For notebooks."""
        return to_notebook(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON with a version number, described in docs/diagnosis-schema.json; also written to `path`, if given.

        Raises:
            OSError: the file cannot be written.
        """
        return to_json(self, path)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The diagnosis that `to_json` wrote.

        Raises:
            ValueError: the text is another one.
        """
        return cls(**from_json(text))

    def fails(self, conditions: Iterable[str]) -> bool:
        """Whether there is a finding of "error", "warning" (includes errors), a rule ("US101") or a group ("US1")."""
        severities = {"error": ("error",), "warning": ("error", "warning")}
        return any(
            finding.severity in severities[what] if what in severities else finding.rule.startswith(what)
            for finding in self.findings
            for what in conditions
        )

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page that needs no network; returns its path.

        Raises:
            OSError: the file cannot be written.
        """
        return to_html(self, path)


def judged(
    measurements: Sequence[Measurement],
    subject: Subject | None = None,
    recording: Recording | None = None,
    seconds: float = 0.0,
    missing: str = "",
) -> Diagnosis:
    """The diagnosis of one measurement, or of the measurements of a training, latest last.

    Args:
        measurements: what the rules judge.
        subject: the model and its batch.
        recording: what trials train again; None: nothing is tried.
        seconds: that the trials may take, about.
        missing: why no step is recorded, if it is known.
    """
    history = tuple(measurements) if len(measurements) > 1 else ()
    findings, trials = findings_of(measurements, subject), NONE_TRIED
    if recording is not None and seconds > 0:
        findings, trials = tried(findings, recording, seconds, chance(Evidence(tuple(measurements))))
    return Diagnosis(measurements[-1], findings, history, subject, gaps(measurements, missing), trials)
