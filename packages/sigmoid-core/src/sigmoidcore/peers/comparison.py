"""A comparison: every method in every setting, on the same data, with the same width, batches and budget."""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sigmoidcore.peers.method import Method, Problem
from sigmoidcore.peers.standings import Setting, Standing, Trial, standings
from sigmoidcore.training.data import Data, InputError, Split
from sigmoidcore.training.loop import Progress, Training, evaluate
from sigmoidcore.training.recipe import Recipe, hold_then_fall
from sigmoidcore.training.runs.state import seed_all
from unstuck import diagnose
from unstuck.files import write_file
from unstuck.observation import Profile

FOREVER = 1_000_000
"""Epochs of a training whose budget is in seconds."""


@dataclass(frozen=True)
class Budget:
    """What every training has in common.

    Attributes:
        width: neurons or channels of a hidden layer.
        batch_size: samples of a step.
        epochs: passes over the training samples, unless there is a limit of time.
        seconds: to build and to train a network, without evaluations; None: no limit.
    """

    width: int = 64
    batch_size: int = 100
    epochs: int = 10
    seconds: float | None = None


class Comparison:
    """The trainings of a comparison, done and to do.

    Args:
        methods: what is compared.
        data: with inputs as the networks expect them.
        budget: of every training.
        depths: numbers of hidden layers.
        seeds: of the weights and of the order of the samples.
        rates: replace those of the methods that have no rule for their rate.
        file: keeps the trainings that are done, so that the same comparison can be resumed or extended.
        facts: what must also be the same for this, such as versions.

    Attributes:
        settings: of all trainings; those of the first seed come first.
        trials: what is done, by setting; a file may hold more than is asked for.

    Raises:
        InputError: the file belongs to another comparison.
    """

    def __init__(
        self, methods: Sequence[Method], data: Data | Split, budget: Budget, *, depths: Sequence[int],
        seeds: Sequence[int], rates: tuple[float, ...] = (), file: Path | None = None, **facts: Any,
    ) -> None:  # fmt: skip
        self.methods = {method.name: method for method in methods}
        self.data, self.budget, self._file = data, budget, file
        self.settings = [
            Setting(name, depth, knob, rate, seed)
            for seed, depth, (name, method) in itertools.product(seeds, depths, self.methods.items())
            for knob, rate in method.settings(rates)
        ]
        self._facts = {"format": 1, "data": data.name, **dataclasses.asdict(budget), **facts}
        self.trials = {} if file is None or not file.exists() else _read(file, self._facts)

    @property
    def missing(self) -> list[Setting]:
        """What is still to do."""
        return [setting for setting in self.settings if setting not in self.trials]

    @property
    def standings(self) -> list[Standing]:
        """Every method at every depth, as far as trainings are done."""
        return standings(self.trials[setting] for setting in self.settings if setting in self.trials)

    def first_profile(self, standing: Standing) -> Profile:
        """Gradient sizes at the outputs of the hidden layers with weights, before the best training; 0: none came."""
        setting = standing.best[0].setting
        model = untrained(self.methods[setting.method], setting, self.data, self.budget)
        inputs, targets = self.data.probes()
        measured = diagnose(model, inputs, targets, self.data.loss_fn, training=True).layers
        hidden = [layer for layer in measured if layer.role == "weights"][:-1]
        sizes = torch.tensor([layer.gradient or 0.0 for layer in hidden], dtype=torch.float64)
        return Profile(tuple(layer.name for layer in hidden), sizes)

    def run(self, on_step: Callable[[Setting, Progress], None] = lambda setting, progress: None) -> Iterator[Trial]:
        """Do what is missing; `on_step` may raise KeyboardInterrupt, which loses one training."""
        for setting in self.missing:
            method = self.methods[setting.method]
            trial = trained(method, setting, self.data, self.budget, partial(on_step, setting))
            self.trials[setting] = trial
            if self._file is not None:
                rows = [vars(trial) | {"setting": trial.setting._asdict()} for trial in self.trials.values()]
                content = {"facts": self._facts, "trials": rows}
                write_file(self._file, json.dumps(content, indent=1, allow_nan=False).encode())
            yield trial


def untrained(method: Method, setting: Setting, data: Data | Split, budget: Budget) -> nn.Module:
    """The network with which a training begins."""
    seed_all(setting.seed)
    inputs, targets = data.probes()
    problem = Problem(inputs, targets, data.loss_fn, data.outputs, budget.width, setting.depth)
    return method.network(problem, setting.knob)


def trained(
    method: Method, setting: Setting, data: Data | Split, budget: Budget, on_step: Callable[[Progress], None]
) -> Trial:
    """Build a network, train it, and evaluate it on the test samples."""
    began = time.perf_counter()
    model = untrained(method, setting, data, budget)
    built = time.perf_counter() - began
    fields: dict[str, Any] = {"epochs": budget.epochs, **method.training()}
    limit = budget.seconds
    if limit is not None:  # the rate falls with time, as it otherwise falls with the steps
        fields |= {"epochs": FOREVER, "schedule": lambda step, steps: max(0.0, hold_then_fall(spent(), limit))}
    recipe = Recipe(batch_size=budget.batch_size, lr=setting.rate, seed=setting.seed, **fields)
    training = Training(model, data, recipe)
    curve: list[tuple[float, float]] = []

    def spent() -> float:
        return round(built + training.result.seconds, 3)

    def is_over() -> bool:
        return limit is not None and spent() >= limit

    def step(progress: Progress) -> None:
        if progress.accuracy is not None:
            curve.append((spent(), progress.accuracy))
        on_step(progress)

    metric = math.nan
    try:
        if training.run(step, is_over).interrupted and not is_over():
            raise KeyboardInterrupt
        metric = evaluate(model, data)
        if curve[-1:] != [(spent(), metric)]:  # time may have ended it within an epoch
            curve.append((spent(), metric))
    except FloatingPointError:
        pass
    return Trial(
        setting,
        metric if math.isfinite(metric) else None,
        spent(),
        sum(parameter.numel() for parameter in model.parameters()),
        tuple(point for point in curve if math.isfinite(point[1])),
    )


def _read(file: Path, facts: Mapping[str, Any]) -> dict[Setting, Trial]:
    """The trainings in a file, if its facts are these."""
    try:
        content = json.loads(file.read_bytes())
        known = content["facts"]
        rows = [row | {"setting": Setting(**row["setting"])} for row in content["trials"]]
        trials = [Trial(**row | {"curve": tuple(map(tuple, row["curve"]))}) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("{file} is not a file of a comparison: give another --output", file=file) from error
    now, then = ({n: of.get(n) for n in facts if facts[n] != known.get(n)} for of in (facts, known))
    if now:
        raise InputError(
            "{file} has {then}, and this comparison {now}: give another --output", file=file, then=then, now=now
        )
    return {trial.setting: trial for trial in trials}
