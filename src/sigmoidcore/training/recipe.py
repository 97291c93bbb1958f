"""How a network is trained: everything that decides it beside the network and the data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr

Schedule = Callable[[int, int], float]
"""From the steps done and the number of all steps: the next step's fraction of the peak rate."""


class Data(Protocol):
    """What the training loop needs of a data set; see `sigmoidcore.training.data`.

    `patience` also needs `validation_batches`, with the interface of `test_batches`.
    """

    def steps(self, batch_size: int) -> int:
        """Batches per epoch."""

    def train_batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, from number `start`, in an order that only seed and epoch decide."""

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test samples in their order."""

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch."""

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """Metric of all samples together; higher is better."""


def hold_then_fall(step: int, steps: int) -> float:
    """The peak rate for the first half of the steps, then a linear decrease to 0.

    Example:
        >>> [hold_then_fall(step, 8) for step in (0, 4, 6)]
        [1.0, 1.0, 0.5]
    """
    return min(1.0, 2 * (1 - step / steps))


def balanced(data: Data, classes: int) -> Tensor:
    """Weights of the classes, inversely proportional to their training samples; over these their mean is 1.

    Returns:
        Shape [classes], float32.

    Example:
        >>> from sigmoidcore.training import Split
        >>> x, y = torch.zeros(4, 1), torch.tensor([0, 0, 0, 1])
        >>> balanced(Split("uneven", x, y, x, y, classes=2), 2)
        tensor([0.6667, 2.0000])
    """
    counts = torch.zeros(classes, dtype=torch.int64)
    for _, targets in data.train_batches(10_000, 0, 0):
        counts += torch.bincount(targets, minlength=classes)
    weights = counts.sum() / ((counts > 0).sum() * counts.clamp_min(1))
    return weights.where(counts > 0, 0.0).to(torch.float32)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples per step, over all processes together.
        lr: total rate, see `depth_scaled_lr`.
        seed: seed for the order of the samples.
        equalize: whether an Equalizer corrects slopes.
        every: the Equalizer's cadence.
        rates: returns the optimizer's parameter groups, each with its rate, from the model and `lr`.
        weight_decay: weight decay of AdamW.
        schedule: of the rates.
        clip: largest norm of the gradient of all parameters; None: no limit.
        patience: epochs without a better validation metric after which training stops; None: no limit.
        class_weights: weights of the classes in the cross-entropy, [classes], whose mean over a batch is weighted;
            None: the data set's own loss.
        penalty: of the model; it is added to the loss of every batch.

    Raises:
        ValueError: a number is out of range.
    """

    epochs: int = 10
    batch_size: int = 100
    lr: float = 0.03
    seed: int = 0
    equalize: bool = True
    every: int | Literal["auto"] = "auto"
    rates: Callable[[nn.Module, float], list[dict[str, Any]]] = depth_scaled_lr
    weight_decay: float = 0.0
    schedule: Schedule = hold_then_fall
    clip: float | None = None
    patience: int | None = None
    class_weights: Tensor | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, got {self.patience}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be a positive number, got {self.clip}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
