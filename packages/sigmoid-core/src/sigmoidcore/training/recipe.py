"""How a network is trained: everything that decides it beside the network and the data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr

Schedule = Callable[[int, int], float]
"""From the steps done and the number of all steps: the next step's fraction of the peak rate."""


def hold_then_fall(step: float, steps: float) -> float:
    """The peak rate for the first half of the steps, then a linear decrease to 0."""
    return min(1.0, 2 * (1 - step / steps))


def balanced(counts: Sequence[int]) -> Tensor:
    """Weights of the classes, inversely proportional to their training samples; over these their mean is 1."""
    samples = torch.tensor(counts, dtype=torch.float32)
    return (samples.sum() / (samples.count_nonzero() * samples)).where(samples > 0, 0.0)


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
        patience: epochs without a better validation metric after which training stops; the model then has the weights
            of the best epoch. None: no limit, and the weights of the last epoch.
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
