"""A training that is watched: what is known of it, what is shown, written and kept while it goes on."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.equalizer import Sample
from sigmoidcore.nn.stepwise import Stepwise
from sigmoidcore.observation.profile import Profile
from sigmoidcore.plots import figures
from sigmoidcore.training.data import Data, Kind, Split, Task, task
from sigmoidcore.training.device import Place
from sigmoidcore.training.display import Meter, Screen
from sigmoidcore.training.loop import Progress, Result, Training
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.session import CtrlC
from sigmoidcore.training.runs.state import State
from sigmoidcore.training.tensorboard import Board

PROBES = 256
"""Training samples that slopes are prepared with, and that the gradient profile is measured on."""


@dataclass
class Record:
    """What is known of one training run so far; complete or not.

    Attributes:
        name: of the network.
        layers: number of cores, in a recurrent layer of its steps; it becomes that of the profile.
        steps: steps that were planned.
        done: steps done.
        result: losses and accuracies of the epochs that ended.
        profiles: by steps done, measured on the probes.
        samples: the profile over the steps, for the heat map.
        step_seconds: of each step.
        task: what is learnt, and the metric that says how well.
        stopped_early: whether training ended because the metric did not get better any more.
    """

    name: str
    layers: int
    steps: int = 0
    done: int = 0
    result: Result = field(default_factory=Result)
    profiles: dict[int, Profile] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    task: Task = field(default_factory=lambda: task(Kind.CLASSES))
    stopped_early: bool = False

    @property
    def start(self) -> Profile:
        """The profile before the first step; of a network without cores there is none."""
        return next(iter(self.profiles.values()))

    @property
    def end(self) -> Profile:
        """The last profile that was measured."""
        return next(reversed(self.profiles.values()))

    @property
    def spread(self) -> float:
        """Of the last profile; nan where there is none."""
        return self.end.spread if self.profiles else math.nan

    @property
    def milliseconds(self) -> float:
        """The median step."""
        return 1000 * statistics.median(self.step_seconds) if self.step_seconds else float("nan")


class Watched:
    """Trains a network, and shows, writes and keeps what happens.

    The profile is measured on a twin that takes the network's weights: the training run is not touched by it.

    Args:
        model: the network, ready to train.
        split: the data.
        record: filled in.
        run: where metrics go; None on a process that is not the first, which does all the rest as the first does.
        ctrl_c: asked in each step.
        observe: steps between two measurements of the profile; None: at the ends of epochs.
        saves: whether a checkpoint is due after so many steps, the last of an epoch or not; None: there are none.
        place: where it trains; None: on the CPU.
        board: TensorBoard's, or None.

    Attributes:
        twin: on the CPU, with the weights that the network had when it was last measured: at the end, the last ones.
    """

    def __init__(
        self, model: nn.Module, split: Split | Data, record: Record, run: Run | None, ctrl_c: CtrlC,
        observe: int | None = None, saves: Callable[[int, bool], bool] | None = None, place: Place | None = None,
        board: Board | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.split = split
        self.record = record
        self.run = run
        self.ctrl_c = ctrl_c
        self.observe = observe
        self.saves = saves
        self.place = place or Place()
        self.board = board
        self.twin = copy.deepcopy(model)
        self._has_cores = any(isinstance(m, SigmoidCore | Stepwise) for m in model.modules())
        self._own_samples = True
        self._spread = float("nan")
        self._resumed = 0.0

    def train(self, screen: Screen, recipe: Recipe, state: State | None = None) -> None:
        """Train, from the beginning or from a state.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the record holds what there is.
            FloatingPointError: the loss is not finite.
            MismatchError: the state is of another training.
        """
        self._own_samples = self.observe is not None or not recipe.equalize
        if state is None:
            self._measure(0, self.model.state_dict())  # before the training is made: what it draws is not part of it
        training = Training(self.model, self.split, recipe, state, self.place)
        self.record.steps = training.steps
        if state is not None:
            self._recall(training, state)
        elif self.saves is not None:
            self._save(training)
        orderly = False
        try:
            with screen.training(self.record.name, recipe.epochs) as meter:
                meter.task = self.record.task
                self._resumed = time.perf_counter()
                result = training.run(
                    lambda progress: self._on_step(progress, meter, training), lambda: self.ctrl_c.asked
                )
            orderly = True
        except FloatingPointError:
            orderly = True
            raise
        finally:
            self.record.done = training.step
            if orderly or not self.place.sharded:  # which takes all processes
                self._measure(self.record.done, training.weights())
        self.record.stopped_early = training.stopped_early
        if result.interrupted:
            raise KeyboardInterrupt

    def _on_step(self, progress: Progress, meter: Meter, training: Training) -> None:
        record = self.record
        record.done = progress.step
        if progress.accuracy is None:  # The last step of an epoch holds the evaluation as well.
            record.step_seconds.append(time.perf_counter() - self._resumed)
        self._take_samples(progress)
        if self.board is not None:
            self.board.add(progress)
        if progress.accuracy is not None or (self.observe and progress.step % self.observe == 0):
            self._measure(progress.step, training.weights())
        if progress.accuracy is not None and progress.epoch_loss is not None:
            record.result.accuracies.append(progress.accuracy)
            record.result.losses.append(progress.epoch_loss)
            self._log(
                "epoch",
                network=record.name,
                epoch=progress.epoch + 1,
                step=progress.step,
                loss=progress.epoch_loss,
                accuracy=progress.accuracy,
                spread=record.spread,
                seconds=round(progress.seconds, 3),
            )
        meter.update(progress, self._spread, record.end if record.profiles else None)
        ended = progress.accuracy is not None
        # Several processes have agreed on it in the step; a single one is asked as late as can be.
        stopping = progress.stopping or (self.place.processes.count == 1 and self.ctrl_c.asked)
        if self.saves is not None and (stopping or self.saves(progress.step, ended) or self._is_best(ended)):
            self._save(training)
        if stopping:
            raise KeyboardInterrupt
        self._resumed = time.perf_counter()

    def _is_best(self, ended: bool) -> bool:
        reached = self.record.result.accuracies
        return ended and reached[-1] > max(reached[:-1], default=-math.inf)

    def _log(self, kind: str, **values: Any) -> None:
        if self.run is not None:
            self.run.log(kind, **values)

    def _save(self, training: Training) -> None:
        state = training.state()
        if self.run is None:
            return
        record = self.record
        profiles = {}
        if record.profiles:
            profiles = {"start": _of_profile(0, record.start), "end": _of_profile(training.step, record.end)}
        own = [vars(sample) for sample in record.samples] if self._own_samples else []
        values = {**state.values, "record": {**profiles, "samples": own}}
        try:
            self.run.save_checkpoint(replace(state, values=values))
        except OSError as error:
            raise OSError(
                f"the checkpoint of step {state.step} cannot be written ({error.strerror or error}), and those before "
                f"are kept: make room, then go on with sigmoid-core train --resume {self.run.folder}"
            ) from error

    def _recall(self, training: Training, state: State) -> None:
        """Fill the record with what it had when the state was saved."""
        record, known = self.record, state.values["record"]
        record.done = training.step
        record.result = Result(list(training.result.accuracies), list(training.result.losses))
        record.layers = len(known["start"]["names"]) if "start" in known else 0
        record.profiles = dict(_as_profile(known[when]) for when in ("start", "end") if when in known)
        self._spread = record.spread
        if self._own_samples:
            record.samples = [Sample(**{**s, "log_sizes": tuple(s["log_sizes"])}) for s in known["samples"]]
        elif training.equalizer is not None:
            record.samples = list(training.equalizer.history)

    def _take_samples(self, progress: Progress) -> None:
        """Write what the Equalizer has seen since the last step: at most one sample."""
        history = progress.equalizer.history if progress.equalizer is not None else ()
        if not history or history[-1].step != progress.step - 1:
            return
        sample = history[-1]
        self._spread = sample.spread
        if not self._own_samples:
            self.record.samples.append(sample)
        self._log(
            "sample",
            network=self.record.name,
            step=sample.step,
            spread=sample.spread,
            slopes=sample.slopes,
            neurons=sample.neurons,
            log_sizes=[round(size, 4) for size in sample.log_sizes],
        )

    def _measure(self, step: int, weights: Mapping[str, Any]) -> None:
        self.twin.load_state_dict(weights)
        if step in self.record.profiles or not self._has_cores:
            return
        profile = profile_of(self.twin, self.split)
        self.record.layers = len(profile.names)
        self.record.profiles[step] = profile
        self._spread = profile.spread
        if self._own_samples:
            self.record.samples.append(as_sample(step, profile))


def profile_of(model: nn.Module, split: Split | Data) -> Profile:
    """The gradient profile of the loss on the first training samples."""
    return sc.gradient_profile(model, *probes(split), split.loss_fn)


def probes(split: Split | Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The first training samples and their targets."""
    return split.probes(PROBES)


def as_sample(step: int, profile: Profile) -> Sample:
    """A measured profile in the form that the Equalizer keeps."""
    stride = max(1, -(-len(profile.names) // 64))
    return Sample(step, profile.spread, tuple(profile.sizes[::stride].log().tolist()), 0, 0)


def _of_profile(step: int, profile: Profile) -> dict[str, Any]:
    return {"step": step, "names": list(profile.names), "sizes": profile.sizes.tolist()}


def _as_profile(known: Mapping[str, Any]) -> tuple[int, Profile]:
    return int(known["step"]), Profile(tuple(known["names"]), torch.tensor(known["sizes"], dtype=torch.float64))


def save_figures(run: Run, records: Mapping[str, Record]) -> list[Path]:
    """Draw what there is of profiles, learning curves and heat map; the last record has the first colour."""
    records = {name: record for name, record in records.items() if record.profiles}
    last_first = dict(reversed(records.items()))
    paths = []
    if records:
        profiles = {f"{name}, {when}": p for name, r in last_first.items() for when, p in ends(r).items()}
        paths.append(run.save_figure("gradient_profiles", figures.gradient_profiles(profiles)))
        if any(record.result.losses for record in records.values()):
            results = {name: record.result for name, record in last_first.items()}
            losses = {name: result.losses for name, result in results.items()}
            scores = {name: result.accuracies for name, result in results.items()}
            curves = figures.learning_curves(losses, scores, next(iter(records.values())).task.metric_name)
            paths.append(run.save_figure("learning_curves", curves))
        sampled = {name: record for name, record in records.items() if record.samples}
        if sampled:
            heatmap = figures.gradient_heatmap(
                {name: record.samples for name, record in sampled.items()},
                layers=max(record.layers for record in sampled.values()),
                steps=max(record.done for record in sampled.values()),
            )
            paths.append(run.save_figure("gradient_heatmap", heatmap))
    return paths


def ends(record: Record) -> dict[str, Profile]:
    """The profile before training and, if there was any, the last one."""
    return {"at the start": record.start} | ({"at the end": record.end} if record.done else {})
