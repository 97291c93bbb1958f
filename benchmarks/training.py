"""The training loop of the benchmarks, and the digits that most of them learn."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import sigmoidcore as sc
from sigmoidcore.equalizer.sample import Sample

Rates = Callable[[nn.Module, float], list[dict[str, Any]]]
"""Makes the optimizer's parameter groups, each with its rate, from a model and `lr`."""


@dataclass(frozen=True)
class Split:
    """A classification set in memory.

    Attributes:
        name: of the set.
        train_x: inputs, float32, [samples, ...].
        train_y: class numbers, int64, [samples].
        test_x: like train_x.
        test_y: like train_y.
        classes: number of classes.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    def probes(self) -> tuple[Tensor, Tensor]:
        """The first 256 training samples, from which slopes are prepared."""
        return self.train_x[:256], self.train_y[:256]

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, from 0, in the order of a loop that shuffles with one generator."""
        generator = torch.Generator().manual_seed(seed)
        for _earlier in range(epoch):
            torch.randperm(len(self.train_x), generator=generator)
        for rows in torch.split(torch.randperm(len(self.train_x), generator=generator), batch_size):
            yield self.train_x[rows], self.train_y[rows]


def digits() -> Split:
    """scikit-learn's digits: 8 x 8 pixels, 10 classes, 1,400 train and 397 test samples, always the same.

    Pixels have mean 0 and standard deviation 1 over the training set, all pixels together: they have one unit, and a
    border pixel that is rarely set should not become as large as a central one.
    """
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=397, random_state=0, stratify=y)
    mean, deviation = float(train_x.mean()), float(train_x.std())
    train_x, test_x = (torch.tensor((x - mean) / deviation, dtype=torch.float32) for x in (train_x, test_x))
    train_y, test_y = (torch.tensor(y, dtype=torch.int64) for y in (train_y, test_y))
    return Split("digits", train_x, train_y, test_x, test_y, classes=10)


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Percentage of samples whose largest output is their class; outputs [samples, classes], targets [samples]."""
    return float((outputs.argmax(1) == targets).float().mean()) * 100


@dataclass
class Result:
    """The result of a training.

    Attributes:
        accuracies: test accuracy in percent after each epoch.
        losses: mean training loss of each epoch.
        seconds: training time without the evaluations.
        history: the Equalizer's measurements.
    """

    accuracies: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    history: Sequence[Sample] = ()


class DivergedError(FloatingPointError):
    """The loss is not finite; `result` is of the epochs before."""

    def __init__(self, step: int, result: Result) -> None:
        super().__init__(f"the loss is not finite at step {step}: use a smaller lr")
        self.result = result


def train(
    model: nn.Module, split: Split, *, epochs: int = 10, batch_size: int = 100, lr: float = 0.03, seed: int = 0,
    equalize: bool = True, every: int | Literal["auto"] = "auto", rates: Rates = sc.depth_scaled_lr,
    weight_decay: float = 0.0, device: str = "cpu", on_step: Callable[[int], None] = lambda step: None,
) -> Result:  # fmt: skip
    """Train a classifier by AdamW with cross-entropy; the rates stay for half of the steps, then fall linearly to 0.

    Args:
        model: maps a batch of inputs to outputs [batch, classes]; it is moved to the device.
        split: the data set.
        epochs: passes over the training samples.
        batch_size: samples of a step.
        lr: for `rates`.
        seed: of the order of the samples.
        equalize: whether an Equalizer corrects slopes.
        every: the Equalizer's cadence.
        rates: makes the parameter groups.
        weight_decay: of AdamW.
        device: where to train.
        on_step: called after every step with the number of steps done.

    Raises:
        DivergedError: the loss is not finite.
    """
    model.to(device)
    optimizer = torch.optim.AdamW(rates(model, lr), weight_decay=weight_decay, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = epochs * math.ceil(len(split.train_x) / batch_size)
    result, step = Result(), 0
    with sc.Equalizer(model, optimizer, every=every) if equalize else nullcontext() as equalizer:
        if equalizer is not None:
            result.history = equalizer.history
        model.train()
        for epoch in range(epochs):
            total, started = torch.zeros((), device=device), time.perf_counter()
            for batch in split.train_batches(batch_size, seed, epoch):
                x, y = (tensor.to(device) for tensor in batch)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * min(1.0, 2 * (1 - step / steps))
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                if not math.isfinite(loss.item()):
                    result.seconds += time.perf_counter() - started
                    raise DivergedError(step + 1, result)
                optimizer.step()
                step += 1
                total += loss.detach() * len(x)
                on_step(step)
            result.seconds += time.perf_counter() - started
            result.losses.append(total.item() / len(split.train_x))
            model.eval()
            with torch.no_grad():
                result.accuracies.append(accuracy(model(split.test_x.to(device)), split.test_y.to(device)))
            model.train()
    return result
