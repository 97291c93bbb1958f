"""The diagnosis of a network: what was measured, what is wrong, and what to do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sigmoidcore._language import terminal
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Subject
from sigmoidcore.diagnosis.repair import Mending, findings_of, mend
from sigmoidcore.diagnosis.report import to_html, to_json, to_notebook, to_text, verdict
from sigmoidcore.diagnosis.rules import gaps


class Diagnosis(Judgement):
    """The result of `diagnose` or of a `Monitor`; `print` it.

    It holds the model and the batch for `mend`, which live as long as it does; `dataclasses.replace(d, subject=None)`
    drops them.

    Attributes:
        measurement: the latest.
        findings: worst first.
        history: all measurements of a `Monitor`, the latest included; else empty.
        subject: the model and its batch, or None.
        gaps: what could not be judged, with the reason.

    Example:
        >>> import torch
        >>> import sigmoidcore as sc
        >>> from torch import nn
        >>> model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.Sigmoid())])
        >>> d = sc.diagnose(model, torch.randn(64, 16))
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

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page that needs no network; returns its path.

        Raises:
            OSError: the file cannot be written.
        """
        return to_html(self, path)

    def mend(self, **options: Any) -> Mending:
        """Repair the model in place; see `sigmoidcore.diagnosis.repair.mender.mend`."""
        return mend(self, **options)


def judged(measurements: Sequence[Measurement], subject: Subject | None = None) -> Diagnosis:
    """The diagnosis of one measurement, or of the measurements of a training, latest last."""
    history = tuple(measurements) if len(measurements) > 1 else ()
    return Diagnosis(measurements[-1], findings_of(measurements, subject), history, subject, gaps(measurements))
