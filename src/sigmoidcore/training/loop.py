"""The training loop: AdamW by the depth rule, an Equalizer if asked for, and a state from which it can go on."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.training import not_finite, randomness
from sigmoidcore.training.device import Place
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.runs.state import (
    MismatchError,
    State,
    equalizer_state,
    equalizer_tensors,
    fill,
    fill_optimizer,
    fill_scaler,
    groups_for,
    groups_of,
    held,
    named_groups,
    optimizer_tensors,
    over,
    scaler_tensors,
    under,
    whole,
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
        stopping: whether it ends after this step because somebody asked for it.
    """

    epoch: int
    step: int
    steps: int
    loss: Tensor
    seconds: float
    equalizer: Equalizer | None
    accuracy: float | None
    epoch_loss: float | None = None
    stopping: bool = False


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
        place: where it runs, see `place_of`; None: on the CPU. The model is moved there. With several processes each
            makes the same training, takes its share of every batch, and has the same results.

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

    def __init__(
        self, model: nn.Module, data: Data, recipe: Recipe, state: State | None = None, place: Place | None = None
    ) -> None:
        self.model = model
        self.place = place or Place()
        self.data = data
        self.recipe = recipe
        self.batches = data.steps(recipe.batch_size)
        self.steps = recipe.epochs * self.batches
        self.step = 0
        self.result = Result()
        self._total = torch.zeros((), device=self.place.device)
        self._asked: Callable[[], bool] = lambda: False
        self._stopping = False
        if state is not None:
            fill(model, state.weights)
        self.place.take(model)
        groups = recipe.rates(model, recipe.lr) if state is None else groups_for(model, state.values["groups"])
        if self.place.processes.count > 1:  # machines may differ in the last bit, and a rate is rounded
            named = self.place.processes.of_first(named_groups(model, groups))
            self._wrapped = self.place.wrapped(model)  # which may replace the parameters
            groups = groups_for(model, named)
        else:
            self._wrapped = self.place.wrapped(model)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.place.attach(self.optimizer)
        self.equalizer = (
            Equalizer(model, self.optimizer, every=recipe.every, scaler=self.place.scaler) if recipe.equalize else None
        )
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

    def run(self, on_step: Callable[[Progress], None] | None = None, asked: Callable[[], bool] | None = None) -> Result:
        """Train from where it is to the end.

        Args:
            on_step: called after every step; `state()` may be taken there.
            asked: whether somebody wants it to stop; looked at in every step. Where one process is asked, all stop
                after the same step.

        Returns:
            Accuracies, losses and time. Ctrl-C ends the run early and returns what there is.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step, the layer and the remedy.
            LostError: another process that trains this network has ended.
        """
        self._asked = asked or self._asked
        try:
            with self.place.processes.together():
                for epoch in range(self.step // self.batches, self.recipe.epochs):
                    if self.finished:
                        break
                    self._epoch(epoch, on_step or (lambda progress: None))
        except KeyboardInterrupt:
            self.result.interrupted = True
        finally:
            if self.equalizer is not None:
                self.equalizer.remove()
            self.place.unwrap(self.model)
        return self.result

    def state(self) -> State:
        """All that is needed to go on from here; between two steps only.

        Raises:
            FloatingPointError: a weight is not finite: nobody wants to go on from here.
            LostError: another process, over which weights are spread, has ended.
        """
        with self.place.processes.together():
            return self._state()

    def _state(self) -> State:
        weights = held(self.model.state_dict())
        sentence = not_finite.of_state(weights, self.step)
        if sentence is not None:
            raise FloatingPointError(sentence)
        tensors = {
            "total": self._total,
            **over("optimizer", optimizer_tensors(self.model, self.optimizer)),
            **over("random", randomness.captured()),
        }
        if self.equalizer is not None:
            tensors |= over("equalizer", equalizer_tensors(self.equalizer))
        if self.place.scaler is not None:
            tensors |= over("scaler", scaler_tensors(self.place.scaler))
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
        return State(self.step, score, weights, held(tensors), values)

    def weights(self) -> dict[str, Tensor]:
        """The model's state dict, whole; processes over which it is spread call it together."""
        with self.place.processes.together():
            return whole(self.model.state_dict())

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
        if self.place.scaler is not None:
            fill_scaler(self.place.scaler, under("scaler", state.tensors))
        self.step = state.step
        self.result = Result(list(values["accuracies"]), list(values["losses"]), float(values["seconds"]))
        self._total = state.tensors["total"].to(self.place.device, copy=True)
        randomness.restored(under("random", state.tensors))  # last: nothing may draw between here and the next step

    def _epoch(self, epoch: int, on_step: Callable[[Progress], None]) -> None:
        recipe, data, result = self.recipe, self.data, self.result
        start = self.step % self.batches
        if start == 0:
            self._total = torch.zeros((), device=self.place.device)
        self.model.train()
        samples = 0
        started = time.perf_counter()
        for x, y in data.train_batches(recipe.batch_size, recipe.seed, epoch, start):
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * recipe.schedule(self.step, self.steps)
            loss, asked = self._step(x, y)
            self.step += 1
            samples += len(x)
            self._total += loss * len(x)
            last = self.step % self.batches == 0
            if last:
                result.seconds += time.perf_counter() - started
                result.losses.append(float(self._total) / (start * recipe.batch_size + samples))
                result.accuracies.append(evaluate(self.model, data, self.place))
                started = time.perf_counter()
            seconds = time.perf_counter() - started
            result.seconds += seconds
            reached = result.accuracies[-1] if last else None
            mean = result.losses[-1] if last else None
            on_step(Progress(epoch, self.step, self.steps, loss, result.seconds, self.equalizer, reached, mean, asked))
            if asked:
                raise KeyboardInterrupt
            started = time.perf_counter()

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, bool]:
        """One step of the optimizer, on a batch in as many parts as the recipe says.

        Every process takes its share of the batch, so that their gradients and losses, summed, are those of the batch.

        Returns:
            The batch's loss, and whether a process was asked to stop.
        """
        place, processes = self.place, self.place.processes
        self.optimizer.zero_grad()
        parts = self._parts(x, y)
        losses = []
        for number, (inputs, targets, share) in enumerate(parts, 1):
            with place.accumulating(self._wrapped, number == len(parts)):
                loss = self._loss(self._wrapped(inputs), targets) * share
                # DDP takes the mean over the processes.
                place.backward(loss * processes.count if processes.count > 1 else loss)
            losses.append(loss.detach())
        loss, asked = self._together(torch.stack(losses).sum())
        if not math.isfinite(float(loss)):
            raise FloatingPointError(self._why(parts, losses))
        if self.recipe.clip is not None:
            place.clip(self.model, self.recipe.clip)
        place.step()
        return loss, asked

    def _parts(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, float]]:
        """This process's share of a batch in parts, each with its share of the batch's loss."""
        place, parts = self.place, self.recipe.accumulate
        rows = place.processes.share(len(x))
        if rows.start == rows.stop:  # fewer samples than processes: one that counts nothing, for all take part
            return [(x[:1].to(place.device), y[:1].to(place.device), 0.0)]
        found, whole = [], self._size(y)
        for inputs, targets in zip(x[rows].tensor_split(parts), y[rows].tensor_split(parts), strict=True):
            if len(inputs):  # the last batch of an epoch may have fewer samples than parts
                share = self._size(targets) / whole
                found.append((inputs.to(place.device), targets.to(place.device), share))
        return found

    def _size(self, targets: Tensor) -> float:
        """What samples count together in the mean loss of a batch."""
        weights = self.recipe.class_weights
        return float(len(targets)) if weights is None else float(weights[targets].sum())

    def _together(self, loss: Tensor) -> tuple[Tensor, bool]:
        """The sum of the losses of all processes, and whether one of them was asked to stop."""
        asked = self._asked()
        if self.place.processes.count == 1:
            return loss, asked
        told = self.place.processes.total(torch.stack([loss, torch.full_like(loss, float(asked))]))
        return told[0], bool(told[1] > 0)

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.recipe.class_weights is None:
            return self.data.loss_fn(outputs, targets)
        return nn.functional.cross_entropy(outputs, targets, weight=self.recipe.class_weights.to(outputs))

    def _why(self, parts: Sequence[tuple[Tensor, Tensor, float]], losses: Sequence[Tensor]) -> str:
        """The sentence for a loss that is not finite, which all processes say alike."""
        if self.equalizer is not None:
            self.equalizer.remove()
        wrong = next((i for i, loss in enumerate(losses) if not math.isfinite(float(loss))), 0)
        if self.place.sharded:
            return not_finite.in_words(self.step + 1)
        sentence = not_finite.of_loss(
            self.model, *parts[wrong][:2], self._loss, self.step + 1
        )  # all processes together
        return self.place.processes.of_first(sentence)


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
def evaluate(model: nn.Module, data: Data, place: Place | None = None) -> float:
    """The data set's metric of the test samples; the model's mode is kept.

    Args:
        model: at its place.
        data: the data.
        place: where the model is, and with whom the samples are shared; None: on the CPU.
    """
    place = place or Place()
    processes = place.processes
    mode = model.training
    model.eval()
    outputs, targets = [], []
    for x, y in data.test_batches(EVALUATED):
        rows = processes.share(len(x))
        mine = x[rows] if rows.start < rows.stop else x[:1]
        outputs.append(processes.gathered(model(mine.to(place.device)), len(x)).cpu())
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
