"""A training with a record: its metrics are shown, written into a run's folder, and saved in checkpoints."""

import copy
import math
import statistics
import time
from collections.abc import Mapping
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
from sigmoidcore.training.display import Meter, Screen
from sigmoidcore.training.loop import Progress, Result, Training
from sigmoidcore.training.place import Place
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.state import State
from sigmoidcore.training.session import CtrlC
from sigmoidcore.training.tensorboard import Board

PROBES = 256
"""Training samples for `prepare` and for the gradient profile."""


@dataclass
class Record:
    """What is known of a training so far."""

    name: str  # of the network
    layers: int = 0  # number of cores (of a recurrent layer: of its steps)
    steps: int = 0  # number of all steps
    done: int = 0  # steps done
    result: Result = field(default_factory=Result)  # losses and metrics of the epochs that ended
    profiles: dict[int, Profile] = field(default_factory=dict)  # on the first training samples, by steps done
    samples: list[Sample] = field(default_factory=list)  # the profile over the steps, for the heat map
    step_seconds: list[float] = field(default_factory=list)  # of each step
    task: Task = field(default_factory=lambda: task(Kind.CLASSES))  # loss and metric
    stopped_early: bool = False  # whether the validation metric stopped improving

    @property
    def start(self) -> Profile:
        """The profile before the first step; a network without cores has none."""
        return next(iter(self.profiles.values()))

    @property
    def end(self) -> Profile:
        """The last profile."""
        return next(reversed(self.profiles.values()))

    @property
    def spread(self) -> float:
        """Spread of the last profile, or nan."""
        return self.end.spread if self.profiles else math.nan

    @property
    def milliseconds(self) -> float:
        """Median time of a step."""
        return 1000 * statistics.median(self.step_seconds) if self.step_seconds else math.nan


class RecordedTraining:
    """Trains a network and fills in a record.

    The profile is measured on a copy of the network, so that the training is not affected.

    Args:
        model: the network, prepared.
        data: the data set.
        record: filled in.
        run: the folder for metrics and checkpoints; None on all processes but the first.
        ctrl_c: asked in each step.
        observe: steps between two measurements of the profile; None: at the ends of epochs.
        save_every: steps between two checkpoints, or "epoch"; None: no checkpoints.
        place: where to train; None: on the CPU.
        board: of TensorBoard, or None.

    Attributes:
        twin: the copy on the CPU, with the weights of the last measurement: at the end, the last ones.
    """

    def __init__(
        self, model: nn.Module, data: Split | Data, record: Record, run: Run | None, ctrl_c: CtrlC, *,
        observe: int | None = None, save_every: int | str | None = None, place: Place | None = None,
        board: Board | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.data = data
        self.record = record
        self.run = run
        self.ctrl_c = ctrl_c
        self.observe = observe
        self.save_every = save_every
        self.place = place or Place()
        self.board = board
        self.twin = copy.deepcopy(model)
        self._has_cores = any(isinstance(m, SigmoidCore | Stepwise) for m in model.modules())
        self._samples_profiles = True
        self._spread = math.nan
        self._step_began = 0.0

    def train(self, screen: Screen, recipe: Recipe, state: State | None = None) -> None:
        """Train from the beginning or from a state.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the record is complete up to there.
            FloatingPointError: the loss is not finite.
            MismatchError: the state is of another training.
        """
        record = self.record
        self._samples_profiles = self.observe is not None or not recipe.equalize
        if state is None:
            self._measure(0)  # before `Training`: random numbers that it draws do not affect the training
        training = Training(self.model, self.data, recipe, state, self.place)
        record.steps = training.steps
        if state is not None:
            self._restore(training, state)
        elif self.save_every is not None:
            self._save(training)
        try:
            with screen.training(record.name, recipe.epochs, record.task) as meter:
                self._step_began = time.perf_counter()
                result = training.run(
                    lambda progress: self._on_step(progress, meter, training), lambda: self.ctrl_c.asked
                )
        finally:
            record.done = training.step
            self._measure(record.done)
        record.stopped_early = training.stopped_early
        if result.interrupted:
            raise KeyboardInterrupt

    def _on_step(self, progress: Progress, meter: Meter, training: Training) -> None:
        record = self.record
        record.done = progress.step
        ended = progress.accuracy is not None
        if not ended:  # the last step of an epoch contains the evaluation
            record.step_seconds.append(time.perf_counter() - self._step_began)
        self._log_sample(progress)
        if self.board is not None:
            self.board.add(progress)
        if ended or (self.observe and progress.step % self.observe == 0):
            self._measure(progress.step)
        is_best = ended and self._end_epoch(progress)
        meter.update(progress, self._spread, record.end if record.profiles else None)
        # Several processes have agreed on it within the step; a single one is asked as late as possible.
        stopping = progress.stopping or (self.place.count == 1 and self.ctrl_c.asked)
        if self.save_every is not None:
            due = ended if self.save_every == "epoch" else progress.step % int(self.save_every) == 0
            if stopping or due or is_best:
                self._save(training)
        if stopping:
            raise KeyboardInterrupt
        self._step_began = time.perf_counter()

    def _end_epoch(self, progress: Progress) -> bool:
        """Record an epoch; returns whether it is the best one."""
        record, result = self.record, self.record.result
        assert progress.accuracy is not None
        assert progress.epoch_loss is not None
        result.accuracies.append(progress.accuracy)
        result.losses.append(progress.epoch_loss)
        values: dict[str, Any] = {
            "network": record.name, "epoch": progress.epoch + 1, "step": progress.step, "loss": progress.epoch_loss,
            "accuracy": progress.accuracy, "spread": record.spread, "seconds": round(progress.seconds, 3),
        }  # fmt: skip
        if progress.validation is not None:
            result.validations.append(progress.validation)
            values["validation"] = progress.validation
        self._log("epoch", **values)
        scores = result.validations or result.accuracies
        return scores[-1] > max(scores[:-1], default=-math.inf)

    def _log(self, kind: str, **values: Any) -> None:
        if self.run is not None:
            self.run.log(kind, **values)

    def _log_sample(self, progress: Progress) -> None:
        """Log the Equalizer's sample of this step, if there is one."""
        history = progress.equalizer.history if progress.equalizer is not None else ()
        if not history or history[-1].step != progress.step - 1:
            return
        sample = history[-1]
        self._spread = sample.spread
        if not self._samples_profiles:
            self.record.samples.append(sample)
        sizes = [round(size, 4) for size in sample.log_sizes]
        self._log("sample", **{**vars(sample), "network": self.record.name, "log_sizes": sizes})

    def _measure(self, step: int) -> None:
        record = self.record
        self.twin.load_state_dict(self.model.state_dict())
        if step in record.profiles or not self._has_cores:
            return
        profile = sc.gradient_profile(self.twin, *probes(self.data), self.data.loss_fn)
        record.layers = len(profile.names)
        record.profiles[step] = profile
        self._spread = profile.spread
        if self._samples_profiles:
            stride = max(1, -(-len(profile.names) // 64))
            sizes = tuple(profile.sizes[::stride].log().tolist())
            record.samples.append(Sample(step, profile.spread, sizes, 0, 0))

    def _save(self, training: Training) -> None:
        state = training.state()
        if self.run is None:
            return
        record = self.record
        profiles = [
            {"step": step, "names": list(profile.names), "sizes": profile.sizes.tolist()}
            for step, profile in record.profiles.items()
            if step in (min(record.profiles), max(record.profiles))
        ]
        samples = [vars(sample) for sample in record.samples] if self._samples_profiles else []
        values = {**state.values, "record": {"profiles": profiles, "samples": samples}}
        self.run.save_checkpoint(replace(state, values=values))

    def _restore(self, training: Training, state: State) -> None:
        """Fill the record with what it contained when the state was saved."""
        record, known = self.record, state.values["record"]
        record.done = training.step
        reached = training.result
        record.result = Result(list(reached.accuracies), list(reached.losses), validations=list(reached.validations))
        for row in known["profiles"]:
            sizes = torch.tensor(row["sizes"], dtype=torch.float64)
            record.profiles[int(row["step"])] = Profile(tuple(row["names"]), sizes)
        record.layers = len(record.start.names) if record.profiles else 0
        self._spread = record.spread
        if self._samples_profiles:
            record.samples = [Sample(**{**s, "log_sizes": tuple(s["log_sizes"])}) for s in known["samples"]]
        elif training.equalizer is not None:
            record.samples = list(training.equalizer.history)


def probes(data: Split | Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The first training samples and their targets."""
    return data.probes(PROBES)


def save_figures(run: Run, records: Mapping[str, Record]) -> list[Path]:
    """Draw profiles, learning curves and heat map, as far as there are any; the last record has the first colour."""
    records = {name: record for name, record in records.items() if record.profiles}
    if not records:
        return []
    last_first = dict(reversed(records.items()))
    profiles = {
        f"{name}, {when}": profile
        for name, record in last_first.items()
        for when, profile in (("at the start", record.start), ("at the end", record.end))
        if when == "at the start" or record.done
    }
    paths = [run.save_figure("gradient_profiles", figures.gradient_profiles(profiles))]
    if any(record.result.losses for record in records.values()):
        losses = {name: record.result.losses for name, record in last_first.items()}
        scores = {name: record.result.accuracies for name, record in last_first.items()}
        metric = next(iter(records.values())).task.metric_name
        paths.append(run.save_figure("learning_curves", figures.learning_curves(losses, scores, metric)))
    sampled = {name: record.samples for name, record in records.items() if record.samples}
    if sampled:
        layers, steps = (max(getattr(r, of) for r in records.values()) for of in ("layers", "done"))
        paths.append(run.save_figure("gradient_heatmap", figures.gradient_heatmap(sampled, layers=layers, steps=steps)))
    return paths
