"""What is learnt from a data set: classes or numbers, and the loss and the metric that go with it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn


class Kind(StrEnum):
    """What kind of target a data set has."""

    TWO_CLASSES = "two classes"
    CLASSES = "several classes"
    NUMBER = "a number"
    NUMBERS = "several numbers"

    @property
    def is_class(self) -> bool:
        """Whether the target is a class."""
        return self in (Kind.TWO_CLASSES, Kind.CLASSES)


@dataclass(frozen=True)
class Task:
    """How outputs are compared with targets.

    Attributes:
        loss_fn: of (outputs, targets), a mean over the samples.
        metric: of the outputs and targets of all test samples; the more, the better.
        metric_name: in words.
        unit: what stands behind the metric's number: " %" or nothing.
    """

    loss_fn: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], float]
    metric_name: str
    unit: str


def task(kind: Kind) -> Task:
    """The loss and the metric for a kind of target.

    Classes: targets are class numbers, int64, shape [samples]; outputs [samples, classes]; cross-entropy, accuracy.
    Numbers: targets and outputs are float32, shape [samples, numbers]; mean squared error, R2.

    Example:
        >>> task(Kind.NUMBER).metric_name
        'R2'
    """
    if kind.is_class:
        return Task(nn.functional.cross_entropy, accuracy, "accuracy", " %")
    return Task(nn.functional.mse_loss, r2, "R2", "")


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Percentage of samples whose largest output is their class; outputs [samples, classes], targets [samples]."""
    return float((outputs.argmax(1) == targets).float().mean()) * 100


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Coefficient of determination, 1 - (squared error / variance of the targets), the mean over the columns.

    1 is perfect, 0 is what the mean of the targets reaches. A column that does not vary counts as 1 if it is met
    exactly, as 0 otherwise. Shapes [samples, numbers]; computed in float64.

    Example:
        >>> import torch
        >>> r2(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [2.0], [3.0]]))
        1.0
    """
    outputs, targets = outputs.double(), targets.double()
    error = (outputs - targets).square().sum(0)
    spread = (targets - targets.mean(0)).square().sum(0)
    constant = spread == 0
    scores = 1 - error / spread.where(~constant, 1.0)
    return float(scores.where(~constant, (error == 0).double()).mean())
