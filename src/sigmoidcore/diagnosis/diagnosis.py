"""The diagnosis of a network: what was measured, what is wrong, and what to do. Others show it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.measure.measurement import Measurement

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from sigmoidcore.diagnosis.repair.mend import Mending


@dataclass(frozen=True, eq=False)
class Subject:
    """What was diagnosed, for `Diagnosis.mend`; what is not known is None."""

    model: nn.Module
    inputs: Any = None
    targets: Any = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    training: bool = False
    """Whether the model ran in training mode."""


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """What `diagnose` or a `Monitor` found; `print` it.

    For `mend`, it holds the model and the batch, which live as long as it does: `dataclasses.replace(d, subject=None)`
    is the same without them.

    Attributes:
        measurement: the latest.
        findings: worst first.
        history: earlier measurements, if a `Monitor` made them, the latest included; else empty.
        subject: the model and its batch, or None for a diagnosis that was read from a file.

    Example:
        >>> import torch
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.Sigmoid())])
        >>> d = sc.diagnose(model, torch.randn(64, 16))
        >>> d
        <Diagnosis: 1 error in 60 layers>
        >>> d.healthy, d.findings[0].rule, d.measurement.samples
        (False, 'SC101', 64)
        >>> Diagnosis.from_json(d.to_json()).findings[0].name
        'vanishing gradient'
    """

    measurement: Measurement
    findings: tuple[Finding, ...]
    history: tuple[Measurement, ...] = ()
    subject: Subject | None = None

    @property
    def healthy(self) -> bool:
        """Whether there are neither errors nor warnings."""
        return all(f.severity is Severity.NOTE for f in self.findings)

    @property
    def layers(self) -> "pandas.DataFrame":
        """A row for each layer.

        Raises:
            ImportError: pandas is not installed (extra `tables`).
        """
        from sigmoidcore.diagnosis.report.table import layers

        return layers(self.measurement)

    def __str__(self) -> str:
        """Findings first, then the worst layers, as standard output can show it, however many layers there are.

        It is as wide as the terminal, from 40 to 100 columns, and has 80 where none is; in ASCII, if the encoding of
        standard output has no bars.
        """
        from sigmoidcore.diagnosis.report.terminal import width, writable
        from sigmoidcore.diagnosis.report.text import told

        return writable(told(self, width()))

    def __repr__(self) -> str:
        """One line: what was found."""
        from sigmoidcore.diagnosis.report.terminal import writable
        from sigmoidcore.diagnosis.report.text import verdict

        return writable(f"<Diagnosis: {verdict(self)}>")

    def _repr_html_(self) -> str:
        """For notebooks."""
        from sigmoidcore.diagnosis.report.notebook import to_notebook

        return to_notebook(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON with a version number, described in docs/diagnosis-schema.json; also written to `path`, if given.

        Raises:
            OSError: the file cannot be written.
        """
        from sigmoidcore.diagnosis.report.json import to_json

        return to_json(self, path)

    @classmethod
    def from_json(cls, source: str | Path) -> "Diagnosis":
        """Read what `to_json` gave, from a `Path` or from the text itself.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no diagnosis, not whole, changed, or of a newer format.
        """
        from sigmoidcore.diagnosis.report.json import from_json

        return from_json(source)

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page that needs no network; returns its path.

        Raises:
            OSError: the file cannot be written.
        """
        from sigmoidcore.diagnosis.report.page import to_html

        return to_html(self, path)

    def plot(self) -> "Figure":
        """Profile, saturation and activations over depth.

        Raises:
            ImportError: matplotlib is not installed (extra `plots`).
        """
        from sigmoidcore.diagnosis.report.plots import overview

        return overview(self)

    def mend(self, **options: Any) -> "Mending":
        """Apply what can be applied; see `mend.mend`."""
        from sigmoidcore.diagnosis.repair.mend import mend

        return mend(self, **options)


def judged(measurements: Sequence[Measurement], subject: Subject | None = None) -> Diagnosis:
    """The diagnosis of one measurement, or of the measurements of a training, latest last."""
    from sigmoidcore.diagnosis.repair.calls import checked
    from sigmoidcore.diagnosis.rules import find

    history = tuple(measurements) if len(measurements) > 1 else ()
    findings = find(measurements)
    if subject is not None:
        findings = checked(findings, measurements[-1], subject.model)
    return Diagnosis(measurements[-1], findings, history, subject)
