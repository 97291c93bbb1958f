"""The training loop: AdamW by the depth rule, an Equalizer if asked for, and a state from which it can go on."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sigmoidcore.equalize import Equalizer
from sigmoidcore.networks import depth_scaled_lr
from sigmoidcore.training import not_finite, randomness
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.state import (
    MismatchError,
    State,
    equalizer_state,
    equalizer_tensors,
    fill,
    fill_optimizer,
    groups_for,
    groups_of,
    held,
    optimizer_tensors,
    over,
    under,
)

EVALUATED = 10_000
"""Test samples that go through the network at once."""


class Data(Protocol):
    """What the loop needs of a data set; see `sigmoidcore.training.data`."""

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has."""

    def train_batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, from number `start` on, in an order that seed and epoch decide alone."""

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test samples in their order."""

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of all test samples together; the more, the better."""


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
        accuracy: test accuracy in percent, or the data set's other metric, after the last step of an epoch only.
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
        accuracies: test accuracy in percent, or the data set's other metric, after each epoch.
        losses: mean training loss of each epoch.
        seconds: training time without the evaluations.
        interrupted: whether Ctrl-C ended it; the model is as the last step left it.
    """

    accuracies: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False


class Training:
    """One training of a network, which can be stopped between two steps and go on, bit for bit.

    Args:
        model: maps a batch of inputs to a batch of outputs.
        data: the data.
        recipe: how.
        state: of the same training, to go on from; the model then takes its weights, and the random generators of
            PyTorch, NumPy and Python their states.

    Attributes:
        step: steps done.
        steps: steps in all.
        result: so far.
        equalizer: or None.

    Raises:
        MismatchError: the state is of another model or recipe.

    Example:
        >>> import sigmoidcore as sc
        >>> x, y = torch.randn(40, 8), torch.randint(2, (40,))
        >>> data = sc.training.Split("two classes", x, y, x, y, classes=2)
        >>> model = sc.MLP(8, 16, 3, 2)
        >>> training = Training(model, data, Recipe(epochs=2, batch_size=10))
        >>> states = []
        >>> _ = training.run(lambda progress: states.append(training.state()) if progress.step == 5 else None)
        >>> again = sc.MLP(8, 16, 3, 2)
        >>> _ = Training(again, data, Recipe(epochs=2, batch_size=10), states[0]).run()
        >>> all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
        True
    """

    def __init__(self, model: nn.Module, data: Data, recipe: Recipe, state: State | None = None) -> None:
        self.model = model
        self.data = data
        self.recipe = recipe
        self.batches = data.steps(recipe.batch_size)
        self.steps = recipe.epochs * self.batches
        self.step = 0
        self.result = Result()
        self._total = torch.zeros(())
        if state is not None:
            fill(model, state.weights)
        groups = recipe.rates(model, recipe.lr) if state is None else groups_for(model, state.values["groups"])
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.equalizer = Equalizer(model, self.optimizer, every=recipe.every) if recipe.equalize else None
        if state is not None:
            self._load(state)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.step >= self.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether the metric has not got better for as many epochs as the recipe has patience."""
        reached, patience = self.result.accuracies, self.recipe.patience
        if patience is None or not reached or self.step % self.batches:
            return False
        return len(reached) - 1 - reached.index(max(reached)) >= patience

    def run(self, on_step: Callable[[Progress], None] | None = None) -> Result:
        """Train from where it is to the end.

        Args:
            on_step: called after every step; `state()` may be taken there.

        Returns:
            Accuracies, losses and time. Ctrl-C ends the run early and returns what there is.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step, the layer and the remedy.
        """
        try:
            for epoch in range(self.step // self.batches, self.recipe.epochs):
                if self.finished:
                    break
                self._epoch(epoch, on_step or (lambda progress: None))
        except KeyboardInterrupt:
            self.result.interrupted = True
        finally:
            if self.equalizer is not None:
                self.equalizer.remove()
        return self.result

    def state(self) -> State:
        """All that is needed to go on from here; between two steps only.

        Raises:
            FloatingPointError: a weight is not finite: nobody wants to go on from here.
        """
        sentence = not_finite.of_weights(self.model, self.step)
        if sentence is not None:
            raise FloatingPointError(sentence)
        tensors = {
            "total": self._total,
            **over("optimizer", optimizer_tensors(self.model, self.optimizer)),
            **over("random", randomness.captured()),
        }
        if self.equalizer is not None:
            tensors |= over("equalizer", equalizer_tensors(self.equalizer))
        result = self.result
        values = {
            "steps": self.steps,
            "groups": groups_of(self.model, self.optimizer, self._peaks),
            "accuracies": list(result.accuracies),
            "losses": list(result.losses),
            "seconds": result.seconds,
        }
        ended = self.step > 0 and self.step % self.batches == 0
        score = result.accuracies[-1] if ended and result.accuracies else None
        return State(self.step, score, held(self.model.state_dict()), held(tensors), values)

    def _load(self, state: State) -> None:
        values = state.values
        if values.get("steps") != self.steps or not 0 <= state.step <= self.steps:
            raise MismatchError(
                f"the state is of a training of {values.get('steps')} steps, this one has {self.steps}: data, batch "
                "size and epochs must be the same"
            )
        fill_optimizer(self.model, self.optimizer, under("optimizer", state.tensors))
        watched = under("equalizer", state.tensors)
        if self.equalizer is not None:
            self.equalizer.load_state_dict(equalizer_state(watched))
        self.step = state.step
        self.result = Result(list(values["accuracies"]), list(values["losses"]), float(values["seconds"]))
        self._total = state.tensors["total"].clone()
        randomness.restored(under("random", state.tensors))  # last: nothing may draw between here and the next step

    def _epoch(self, epoch: int, on_step: Callable[[Progress], None]) -> None:
        recipe, data, result = self.recipe, self.data, self.result
        start = self.step % self.batches
        if start == 0:
            self._total = torch.zeros(())
        self.model.train()
        samples = 0
        started = time.perf_counter()
        for x, y in data.train_batches(recipe.batch_size, recipe.seed, epoch, start):
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * recipe.schedule(self.step, self.steps)
            loss = self._step(x, y)
            self.step += 1
            samples += len(x)
            self._total += loss * len(x)
            last = self.step % self.batches == 0
            if last:
                result.seconds += time.perf_counter() - started
                result.losses.append(float(self._total) / (start * recipe.batch_size + samples))
                result.accuracies.append(evaluate(self.model, data))
                started = time.perf_counter()
            seconds = time.perf_counter() - started
            result.seconds += seconds
            reached = result.accuracies[-1] if last else None
            mean = result.losses[-1] if last else None
            on_step(Progress(epoch, self.step, self.steps, loss, result.seconds, self.equalizer, reached, mean))
            started = time.perf_counter()

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step of the optimizer, on a batch in as many parts as the recipe says; returns the loss."""
        parts = self.recipe.accumulate
        self.optimizer.zero_grad()
        losses = []
        for inputs, targets in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            if not len(inputs):  # the last batch of an epoch may have fewer samples than parts
                continue
            loss = self._loss(self.model(inputs), targets)
            if not math.isfinite(float(loss.detach())):
                raise FloatingPointError(self._why(inputs, targets))
            loss = loss * (len(inputs) / len(x))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        return torch.stack(losses).sum()

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.recipe.class_weights is None:
            return self.data.loss_fn(outputs, targets)
        return nn.functional.cross_entropy(outputs, targets, weight=self.recipe.class_weights)

    def _why(self, x: Tensor, y: Tensor) -> str:
        if self.equalizer is not None:
            self.equalizer.remove()
        return not_finite.of_loss(self.model, x, y, self._loss, self.step + 1)


def train(
    model: nn.Module,
    split: Data,
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
    """Train a network: a classifier with cross-entropy, or whatever loss the data set has.

    The rates are `rates(model, lr)` for the first half of the steps, then fall linearly to 0. `Training` with a
    `Recipe` has more to choose, and can go on after an interruption.

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
        FloatingPointError: the loss is not finite; the message names the step, the layer and the remedy.
    """
    recipe = Recipe(epochs, batch_size, lr, seed, equalize, every, rates)
    return Training(model, split, recipe).run(on_step)


@torch.no_grad()
def evaluate(model: nn.Module, data: Data) -> float:
    """The data set's metric of the test samples; the model's mode is kept."""
    mode = model.training
    model.eval()
    outputs, targets = [], []
    for x, y in data.test_batches(EVALUATED):
        outputs.append(model(x))
        targets.append(y)
    model.train(mode)
    return data.metric(torch.cat(outputs), torch.cat(targets))


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of samples whose largest output is their class; the model's mode is kept."""
    mode = model.training
    model.eval()
    right = float((model(x).argmax(1) == y).float().mean()) * 100
    model.train(mode)
    return right
