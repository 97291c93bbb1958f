"""The training loop: AdamW by the depth rule, an Equalizer, and a state from which a training resumes bit for bit."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.training.data import Learnable
from sigmoidcore.training.place import Place, of_first, together
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.runs.state import (
    MismatchError,
    State,
    cpu_copies,
    fill,
    fill_optimizer,
    groups_for,
    named_groups,
    not_finite,
    optimizer_tensors,
    random_tensors,
    random_values,
    restore_random,
)
from unstuck.diagnose import diagnose
from unstuck.language import _, edited

EVALUATED = 10_000
"""Samples per batch of an evaluation."""
_BEST = "best."
_RESULT = ("accuracies", "losses", "seconds", "validations")
_EQUALIZER = ("before", "levels", "past")
"""What of an Equalizer's state are tensors."""


@dataclass(frozen=True)
class Progress:
    """Where a training is, passed to `on_step` after every step."""

    epoch: int  # from 0
    step: int  # steps done, from 1
    steps: int  # number of all steps
    loss: Tensor  # of this step's batch, a 0-dim tensor (reading it makes a GPU wait)
    seconds: float  # since the start
    equalizer: Equalizer | None  # of the training
    accuracy: float | None = None  # test accuracy in percent, or the set's other metric, after an epoch's last step
    epoch_loss: float | None = None  # mean training loss of the epoch, after its last step
    stopping: bool = False  # whether training ends after this step on request
    validation: float | None = None  # metric of the validation part, if there is one, after an epoch's last step

    @property
    def sample(self) -> Sample | None:
        """The Equalizer's measurement of this step, if it made one."""
        history = () if self.equalizer is None else self.equalizer.history
        return history[-1] if history and history[-1].step == self.step - 1 else None


@dataclass
class Result:
    """The result of a training; the lists have a number for each epoch."""

    accuracies: list[float] = field(default_factory=list)  # test accuracy in percent, or the set's other metric
    losses: list[float] = field(default_factory=list)  # mean training loss of each epoch
    seconds: float = 0.0  # training time without the evaluations
    interrupted: bool = False  # whether Ctrl-C ended it; the model is as the last step left it
    validations: list[float] = field(default_factory=list)  # metric of the validation part, if there is one

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation metric, from 1; 0 without a validation part."""
        return self.validations.index(max(self.validations)) + 1 if self.validations else 0


class Training:
    """The training of a network; it can be stopped between two steps and resumed bit for bit.

    Args:
        model: maps a batch of inputs to a batch of outputs.
        data: the data set.
        recipe: how to train.
        state: of the same training, to resume from; it sets the model's weights and the random generators of PyTorch,
            NumPy and Python.
        place: where to train, see `place_of`; None: on the CPU. The model is moved there. Each of several processes
            makes the same training, computes its share of every batch, and gets the same results.

    Attributes:
        step: steps done.
        steps: number of all steps.
        result: so far.
        equalizer: the Equalizer, or None.

    Raises:
        MismatchError: the state is of another model or recipe.
        ValueError: the recipe has patience, and the data set has no validation part.

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
        self, model: nn.Module, data: Learnable, recipe: Recipe, state: State | None = None, place: Place | None = None
    ) -> None:
        if recipe.patience is not None and data.validation is None:
            raise ValueError("patience needs a validation part: use load(..., validation_size=0.1)")
        self.model = model
        self.place = place or Place()
        self.data = data
        self.recipe = recipe
        self.batches = data.steps(recipe.batch_size)
        self.steps = recipe.epochs * self.batches
        self.step = 0
        self.result = Result()
        self._total = torch.zeros((), device=self.place.device)
        self._best: dict[str, Tensor] = {}  # weights of the best epoch, with patience
        if state is not None:
            fill(model, state.weights)
        self._wrapped = self.place.wrap(model)
        # Machines may differ in the last bit of a rate: the first process decides.
        groups = named_groups(model, recipe.rates(model, recipe.lr)) if state is None else state.values["groups"]
        self._groups = of_first(groups)
        parameters = groups_for(model, self._groups)
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=recipe.weight_decay, fused=True)
        self.equalizer = Equalizer(model, self.optimizer, every=recipe.every) if recipe.equalize else None
        if state is not None:
            self._restore(state)

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.steps or self.stopped_early

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights the trained network has, from 1: with patience the best, else the last."""
        return self.result.best_epoch if self._best and self.finished else len(self.result.accuracies)

    @property
    def stopped_early(self) -> bool:
        """Whether the validation metric has not improved for as many epochs as the recipe's patience."""
        patience, result = self.recipe.patience, self.result
        if patience is None or not result.validations or self.step % self.batches:
            return False
        return len(result.validations) - result.best_epoch >= patience

    def run(self, on_step: Callable[[Progress], None] | None = None, asked: Callable[[], bool] | None = None) -> Result:
        """Train to the end. With patience, the model then has the weights of the epoch with the best validation metric.

        Args:
            on_step: called after every step; it may call `state()`.
            asked: whether to stop, called in every step. If one process is asked, all stop after the same step.

        Returns:
            Metrics, losses and time. Ctrl-C ends the training early and returns the results so far.

        Raises:
            FloatingPointError: the loss is not finite; the message names the step, the layer and the remedy.
            LostError: another process of this training has ended.
        """
        try:
            with together():
                for epoch in range(self.step // self.batches, self.recipe.epochs):
                    if self.finished:
                        break
                    if not self._epoch(epoch, on_step, asked or (lambda: False)):
                        self.result.interrupted = True
                        break
            if self._best and self.finished:
                fill(self.model, self._best)
        except KeyboardInterrupt:
            self.result.interrupted = True
        finally:
            if self.equalizer is not None:
                self.equalizer.remove()
            self._wrapped = self.model  # DistributedDataParallel would keep the process group
        return self.result

    def state(self) -> State:
        """Everything that is needed to resume; call it between two steps.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        weights = cpu_copies(self.model.state_dict())
        wrong = not_finite(weights)
        if wrong is not None:
            problem = _("{weight} is not finite after step {step}", weight=wrong, step=self.step)
            raise FloatingPointError(_("{problem}: {remedy}", problem=problem, remedy=_remedy()))
        tensors = {"total": self._total, **optimizer_tensors(self.optimizer), **random_tensors()}
        tensors |= {_BEST + name: weight for name, weight in self._best.items()}
        result = self.result
        values: dict[str, Any] = {"steps": self.steps, "groups": self._groups, "random": random_values()}
        values |= {name: copy.copy(getattr(result, name)) for name in _RESULT}
        if self.equalizer is not None:
            values["equalizer"] = self.equalizer.state_dict()
            own = {f"equalizer.{name}": values["equalizer"].pop(name) for name in _EQUALIZER}
            tensors |= {name: tensor for name, tensor in own.items() if tensor is not None}
        scores = result.validations or result.accuracies
        ended = self.step > 0 and self.step % self.batches == 0
        return State(self.step, scores[-1] if ended and scores else None, weights, cpu_copies(tensors), values)

    def _restore(self, state: State) -> None:
        values, tensors = state.values, state.tensors
        if values.get("steps") != self.steps or not 0 <= state.step <= self.steps:
            raise MismatchError(
                "the state is of a training of {other} steps, this one has {steps}: data, batch size and epochs must "
                "be the same",
                other=values.get("steps"),
                steps=self.steps,
            )
        fill_optimizer(self.optimizer, tensors)
        if self.equalizer is not None:
            own = {name: tensors.get(f"equalizer.{name}") for name in _EQUALIZER}
            self.equalizer.load_state_dict(values["equalizer"] | own)
        self.step = state.step
        self.result = Result(**{name: copy.copy(values[name]) for name in _RESULT})
        self._total = tensors["total"].to(self.place.device, copy=True)
        self._best = {n.removeprefix(_BEST): tensor for n, tensor in tensors.items() if n.startswith(_BEST)}
        restore_random(tensors, values["random"])  # last: no generator may be used between here and the next step

    def _epoch(self, epoch: int, on_step: Callable[[Progress], None] | None, asked: Callable[[], bool]) -> bool:
        """Train to the end of an epoch; False if a process was asked to stop."""
        recipe, result = self.recipe, self.result
        first = self.step % self.batches
        if first == 0:
            self._total = torch.zeros((), device=self.place.device)
        self.model.train()
        samples = first * recipe.batch_size
        started = time.perf_counter()
        for x, y in self.data.train_batches(recipe.batch_size, recipe.seed, epoch, first):
            for group, peak in zip(self.optimizer.param_groups, self._groups, strict=True):
                group["lr"] = peak["lr"] * recipe.schedule(self.step, self.steps)
            loss, stopping = self._step(x, y, asked)
            self.step += 1
            samples += len(x)
            self._total += loss * len(x)
            result.seconds += time.perf_counter() - started
            scores: dict[str, Any] = {}
            if self.step % self.batches == 0:
                scores = self._end_epoch(samples)
            if on_step is not None:
                at = epoch, self.step, self.steps, loss, result.seconds, self.equalizer
                on_step(Progress(*at, stopping=stopping, **scores))
            if stopping:
                return False
            started = time.perf_counter()
        return True

    def _end_epoch(self, samples: int) -> dict[str, Any]:
        """Evaluate; returns what an epoch adds to the progress."""
        result = self.result
        result.losses.append(float(self._total) / samples)
        result.accuracies.append(evaluate(self.model, self.data, self.place))
        scores = {"accuracy": result.accuracies[-1], "epoch_loss": result.losses[-1]}
        if self.data.validation is not None:
            result.validations.append(evaluate(self.model, self.data, self.place, validation=True))
            scores["validation"] = result.validations[-1]
            if self.recipe.patience is not None and result.best_epoch == len(result.validations):
                self._best = cpu_copies(self.model.state_dict())
        return scores

    def _step(self, x: Tensor, y: Tensor, asked: Callable[[], bool]) -> tuple[Tensor, bool]:
        """One step of the optimizer; returns the batch's loss, and whether a process was asked to stop.

        The gradients of all processes add up to those of the batch.
        """
        place = self.place
        self.optimizer.zero_grad()
        inputs, targets, share = self._share(x, y)
        loss = self.loss(self._wrapped(inputs), targets) * share
        place.backward(loss)
        loss, stopping = loss.detach(), asked()
        if place.count > 1:
            loss, requests = place.total(torch.stack([loss, torch.full_like(loss, float(stopping))]))
            stopping = bool(requests > 0)
        if not math.isfinite(float(loss)):
            raise FloatingPointError(self._explain(inputs, targets))
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        return loss, stopping

    def _share(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """This process's samples of a batch, and their weight in the batch's loss."""
        rows, device = self.place.share(len(x)), self.place.device
        if rows.start == rows.stop:  # fewer samples than processes: take part with weight 0
            return x[:1].to(device), y[:1].to(device), 0.0
        return x[rows].to(device), y[rows].to(device), self._size(y[rows]) / self._size(y)

    def _size(self, targets: Tensor) -> float:
        """Sum of the weights of samples in the mean loss of a batch."""
        weights = self.recipe.class_weights
        return float(len(targets)) if weights is None else float(weights[targets].sum())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The data set's loss, or the cross-entropy with the recipe's weights of the classes."""
        recipe = self.recipe
        if recipe.class_weights is None:
            loss = self.data.loss_fn(outputs, targets)
        else:
            loss = nn.functional.cross_entropy(outputs, targets, weight=recipe.class_weights.to(outputs))
        return loss if recipe.penalty is None else loss + recipe.penalty(self.model)

    def _explain(self, x: Tensor, y: Tensor) -> str:
        """The sentence for a loss that is not finite, the same on all processes; rule US401 names the layer."""
        if self.equalizer is not None:
            self.equalizer.remove()
        try:
            findings = diagnose(self.model, x, y, self.loss).findings
        except (RuntimeError, ValueError, TypeError, ArithmeticError):
            findings = ()
        message = next((finding.message for finding in findings if finding.rule == "US401"), "")
        problem, remedy = _("the loss is not finite at step {step}", step=self.step + 1), _remedy()
        if not message:
            return of_first(_("{problem}: {remedy}", problem=problem, remedy=remedy))
        layer = edited(message, lambda text: text[0].lower() + text[1:].rstrip(".。"))
        return of_first(_("{problem}: {layer} (US401); {remedy}", problem=problem, layer=layer, remedy=remedy))


def _remedy() -> str:
    return _("use a smaller lr, clip the gradient, or prepare the model before training")


def train(
    model: nn.Module, split: Learnable, *, on_step: Callable[[Progress], None] | None = None, **recipe: Any
) -> Result:
    """Train a network: a classifier with cross-entropy, or with the data set's own loss.

    The rates are `rates(model, lr)` for the first half of the steps, then decrease linearly to 0. `Training` can also
    resume after an interruption.

    Args:
        model: maps [batch, features] to [batch, classes].
        split: the data set.
        on_step: called after every step.
        recipe: fields of `Recipe`, as `epochs=10`, `batch_size=100`, `lr=0.03`, `seed=0`, `equalize=True`.

    Returns:
        Metrics, losses and time. Ctrl-C ends the training early and returns the results so far.

    Raises:
        ValueError: a number of the recipe is out of range.
        FloatingPointError: the loss is not finite; the message names the step, the layer and the remedy.
    """
    return Training(model, split, Recipe(**recipe)).run(on_step)


def evaluate(model: nn.Module, data: Learnable, place: Place | None = None, *, validation: bool = False) -> float:
    """The data set's metric of the test part, or of the validation part; the model's mode is preserved."""
    return float(data.metric(*outputs_and_targets(model, data, place, validation=validation)))


@torch.no_grad()
def outputs_and_targets(
    model: nn.Module, data: Learnable, place: Place | None = None, *, validation: bool = False
) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the test part, or of the validation part, on the CPU; the model's mode is preserved."""
    place = place or Place()
    mode = model.training
    model.eval()
    outputs, targets = [], []
    for x, y in (data.validation_batches if validation else data.test_batches)(EVALUATED):
        rows = place.share(len(x))
        own = x[rows] if rows.start < rows.stop else x[:1]
        outputs.append(place.gathered(model(own.to(place.device)), len(x)).cpu())
        targets.append(y)
    model.train(mode)
    return torch.cat(outputs), torch.cat(targets)
