"""The training loop: Adam by the depth rule, an Equalizer if asked for, a constant rate and then a linear fall to 0."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sigmoidcore.equalize import Equalizer
from sigmoidcore.networks import depth_scaled_lr
from sigmoidcore.training.data import Split


@dataclass(frozen=True)
class Progress:
    """Where a training run is, handed to `on_step` after every step.

    Attributes:
        epoch: from 0.
        step: steps done, from 1.
        steps: steps in all.
        loss: of the batch of this step, as a 0-dim tensor (reading it makes a GPU wait).
        seconds: since the start.
        equalizer: the run's Equalizer, or None.
        accuracy: test accuracy in percent, after the last step of an epoch only.
        epoch_loss: mean training loss of the epoch, after its last step only.
    """

    epoch: int
    step: int
    steps: int
    loss: Tensor
    seconds: float
    equalizer: Equalizer | None
    accuracy: float | None
    epoch_loss: float | None = None


@dataclass
class Result:
    """What a training run gave.

    Attributes:
        accuracies: test accuracy in percent after each epoch.
        losses: mean training loss of each epoch.
        seconds: training time without the evaluations.
        interrupted: whether Ctrl-C ended it; the model is as the last step left it.
    """

    accuracies: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False


def train(
    model: nn.Module,
    split: Split,
    *,
    epochs: int = 10,
    batch_size: int = 100,
    lr: float = 0.03,
    seed: int = 0,
    equalize: bool = True,
    every: int | Literal["auto"] = "auto",
    rates: Callable[[nn.Module, float], list[dict[str, Any]]] = depth_scaled_lr,
    on_step: Callable[[Progress], None] | None = None,
) -> Result:
    """Train a classifier with cross-entropy.

    The rates are `rates(model, lr)` for the first half of the steps, then fall linearly to 0.

    Args:
        model: maps [batch, features] to [batch, classes].
        split: the data.
        epochs: passes over the training samples.
        batch_size: samples a step.
        lr: total rate, see `depth_scaled_lr`.
        seed: fixes the order of the samples.
        equalize: whether an Equalizer watches and corrects.
        every: the Equalizer's cadence.
        rates: gives the optimizer's parameter groups, each with its rate, from the model and `lr`.
        on_step: called after every step.

    Returns:
        Accuracies, losses and time. Ctrl-C ends the run early and returns what there is.

    Raises:
        ValueError: `epochs` or `batch_size` is less than 1.
        FloatingPointError: the loss is not finite; the message names the step and the remedy.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    optimizer = torch.optim.Adam(rates(model, lr), fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    equalizer = Equalizer(model, optimizer, every=every) if equalize else None
    generator = torch.Generator().manual_seed(seed)
    count = len(split.train_x)
    steps = epochs * math.ceil(count / batch_size)
    result = Result()
    step = 0
    started = time.perf_counter()
    try:
        for epoch in range(epochs):
            model.train()
            total = torch.zeros(())
            for rows in torch.split(torch.randperm(count, generator=generator), batch_size):
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * min(1.0, 2 * (1 - step / steps))
                loss = nn.functional.cross_entropy(model(split.train_x[rows]), split.train_y[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
                loss = loss.detach()
                total += loss * len(rows)
                last = step % math.ceil(count / batch_size) == 0
                if last:
                    result.seconds += time.perf_counter() - started
                    _check_finite(float(total), step)
                    result.losses.append(float(total) / count)
                    result.accuracies.append(accuracy(model, split.test_x, split.test_y))
                    started = time.perf_counter()
                if on_step is not None:
                    seconds = result.seconds + time.perf_counter() - started
                    reached = result.accuracies[-1] if last else None
                    mean = result.losses[-1] if last else None
                    on_step(Progress(epoch, step, steps, loss, seconds, equalizer, reached, mean))
    except KeyboardInterrupt:
        result.interrupted = True
    finally:
        if equalizer is not None:
            equalizer.remove()
    return result


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of samples whose largest output is their class; the model's mode is kept."""
    mode = model.training
    model.eval()
    right = float((model(x).argmax(1) == y).float().mean()) * 100
    model.train(mode)
    return right


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is not finite in the epoch that ends at step {step}: use a smaller lr, or prepare the model "
            "before training"
        )
