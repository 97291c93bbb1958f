"""A judgement: the measurements of a network and the findings of the rules. Data only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.measure.measurement import Measurement


@dataclass(frozen=True, eq=False)
class Subject:
    """The diagnosed model and its batch; unknown parts are None.

    Attributes:
        model: the module.
        inputs: one batch, as for `diagnose`.
        targets: second argument of `loss_fn`.
        loss_fn: the loss function.
        training: whether the model ran in training mode.
    """

    model: nn.Module
    inputs: Any = None
    targets: Any = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    training: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Judgement:
    """The data of a `Diagnosis`; reports and repairs take it.

    Attributes:
        measurement: the latest.
        findings: worst first.
        history: all measurements of a `Monitor`, the latest included; else empty.
        subject: the model and its batch, or None for a diagnosis from a file.
    """

    measurement: Measurement
    findings: tuple[Finding, ...]
    history: tuple[Measurement, ...] = ()
    subject: Subject | None = None

    @property
    def healthy(self) -> bool:
        """Whether there are neither errors nor warnings."""
        return all(f.severity is Severity.NOTE for f in self.findings)
