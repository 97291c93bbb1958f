"""A training that is shown, and recorded in a run's folder: metrics, gradient profiles and checkpoints."""

import copy
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.plots import figures
from sigmoidcore.plots.style import save_figure
from sigmoidcore.training.data import Data, Split
from sigmoidcore.training.display import Meter, Screen
from sigmoidcore.training.loop import Progress, Result, Training
from sigmoidcore.training.place import Place
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.state import State
from sigmoidcore.training.session import CtrlC
from sigmoidcore.language import _
from unstuck.observation import Profile


class RecordedTraining:
    """Trains a prepared network; the profile is measured on a copy, so that the training is not affected.

    Args:
        run: the folder for metrics and checkpoints; None on all processes but the first.
        observe: steps between two measurements of the profile; None: at the ends of epochs.
        save_every: steps between two checkpoints, or "epoch"; None: no checkpoints.
    """

    def __init__(
        self, name: str, model: nn.Module, data: Split | Data, recipe: Recipe, ctrl_c: CtrlC, *, run: Run | None = None,
        state: State | None = None, place: Place | None = None, observe: int | None = None,
        save_every: int | str | None = None,
    ) -> None:  # fmt: skip
        self.name, self.model, self.data, self.recipe = name, model, data, recipe
        self.run, self.ctrl_c, self.observe, self.save_every = run, ctrl_c, observe, save_every
        self.twin = copy.deepcopy(model)  # on the CPU, with the weights of the last measurement: at the end, the last
        self.profiles: list[Profile] = []  # the first and the last
        self.step_seconds: list[float] = []
        self._measured = -1
        self._spread = math.nan
        self._own_samples: list[Sample] | None = [] if observe is not None or not recipe.equalize else None
        if state is None:
            self._measure(0)
        self.training = Training(model, data, recipe, state, place)
        if state is not None:
            self._restore(state.values["record"])
        elif save_every is not None:
            self._save()

    @property
    def result(self) -> Result:
        """Losses and metrics of the epochs that ended."""
        return self.training.result

    @property
    def samples(self) -> list[Sample]:
        """The profile over the steps, for the heat map."""
        if self._own_samples is not None:
            return self._own_samples
        return list(self.training.equalizer.history) if self.training.equalizer is not None else []

    @property
    def start(self) -> Profile:
        """The profile before the first step."""
        return self.profiles[0]

    @property
    def end(self) -> Profile:
        """The last profile."""
        return self.profiles[-1]

    @property
    def layers(self) -> int:
        """Number of cores (of a recurrent layer: of its steps)."""
        return len(self.end.names)

    @property
    def milliseconds(self) -> float:
        """Median time of a step."""
        return 1000 * statistics.median(self.step_seconds) if self.step_seconds else math.nan

    def train(self, screen: Screen) -> None:
        """Train to the end; KeyboardInterrupt after Ctrl-C, FloatingPointError if the loss is not finite."""
        try:
            with screen.training(self.name, self.recipe.epochs, self.data.task) as meter:
                began = time.perf_counter()

                def on_step(progress: Progress) -> None:
                    nonlocal began
                    if progress.accuracy is None:  # the last step of an epoch contains the evaluation
                        self.step_seconds.append(time.perf_counter() - began)
                    self._on_step(progress, meter)
                    began = time.perf_counter()

                result = self.training.run(on_step, lambda: self.ctrl_c.asked)
        finally:
            if self.training.kept_epoch < len(self.result.accuracies):
                self._measured = -1  # the network is that of an earlier epoch now
            self._measure(self.training.step)
        if result.interrupted:
            raise KeyboardInterrupt

    def _on_step(self, progress: Progress, meter: Meter) -> None:
        ended = progress.accuracy is not None
        sample = progress.sample
        if sample is not None:
            self._spread = sample.spread
            sizes = [round(size, 4) for size in sample.log_sizes]
            self._log("sample", **{**vars(sample), "log_sizes": sizes})
        if ended or (self.observe and progress.step % self.observe == 0):
            self._measure(progress.step)
        if ended:
            self._log_epoch(progress)
        meter.update(progress, self._spread, self.end)
        # Several processes have agreed on it within the step; a single one is asked as late as possible.
        stopping = progress.stopping or (self.training.place.count == 1 and self.ctrl_c.asked)
        if self.save_every is not None:
            due = ended if self.save_every == "epoch" else progress.step % int(self.save_every) == 0
            scores = self.result.validations or self.result.accuracies
            is_best = ended and scores[-1] > max(scores[:-1], default=-math.inf)
            if stopping or due or is_best:
                self._save()
        if stopping:
            raise KeyboardInterrupt

    def _log(self, kind: str, **values: Any) -> None:
        if self.run is not None:
            self.run.log(kind, **values)

    def _log_epoch(self, progress: Progress) -> None:
        values: dict[str, Any] = {
            "epoch": progress.epoch + 1, "step": progress.step, "loss": progress.epoch_loss,
            "accuracy": progress.accuracy, "spread": self.end.spread, "seconds": round(progress.seconds, 3),
        }  # fmt: skip
        self._log("epoch", **values, **({} if progress.validation is None else {"validation": progress.validation}))

    def _measure(self, step: int) -> None:
        self.twin.load_state_dict(self.model.state_dict())
        if step == self._measured:
            return
        self._measured = step
        profile = sc.gradient_profile(self.twin, *self.data.probes(), self.data.loss_fn)
        self.profiles = [*self.profiles[:1], profile]
        self._spread = profile.spread
        if self._own_samples is not None:
            stride = max(1, -(-self.layers // 64))
            sizes = tuple(self.end.sizes[::stride].log().tolist())
            self._own_samples.append(Sample(step, profile.spread, sizes, 0, 0))

    def _save(self) -> None:
        state = self.training.state()
        if self.run is not None:
            profiles = [[list(profile.names), profile.sizes.tolist()] for profile in self.profiles]
            record = {
                "profiles": profiles, "measured": self._measured, "samples": [vars(s) for s in self._own_samples or ()],
            }  # fmt: skip
            self.run.save_checkpoint(replace(state, values={**state.values, "record": record}))

    def _restore(self, record: dict[str, Any]) -> None:
        self.profiles = [
            Profile(tuple(names), torch.tensor(sizes, dtype=torch.float64)) for names, sizes in record["profiles"]
        ]
        self._measured, self._spread = record["measured"], self.end.spread
        if self._own_samples is not None:
            self._own_samples += [Sample(**{**row, "log_sizes": tuple(row["log_sizes"])}) for row in record["samples"]]


def save_figures(folder: Path, trainings: Sequence[RecordedTraining]) -> None:
    """Draw profiles, learning curves and heat map, as far as there are any; the last training has the first colour."""
    if folder.is_symlink():
        raise OSError(_("{path} is a link: a run's folder contains no links", path=folder))
    folder.mkdir(exist_ok=True)
    shown = list(reversed(trainings))
    profiles = {}
    for training in shown:
        profiles[f"{training.name}, at the start"] = training.start
        if training.training.step:
            profiles[f"{training.name}, at the end"] = training.end
    save_figure(figures.gradient_profiles(profiles), folder / "gradient_profiles.png")
    if any(training.result.losses for training in shown):
        losses = {training.name: training.result.losses for training in shown}
        scores = {training.name: training.result.accuracies for training in shown}
        metric, best = shown[0].data.task.metric_name, shown[0].result.best_epoch
        if best:
            scores["validation"] = shown[0].result.validations
        save_figure(figures.learning_curves(losses, scores, metric, best), folder / "learning_curves.png")
    samples = {training.name: training.samples for training in trainings if training.samples}
    if samples:
        layers, steps = max(t.layers for t in shown), max(t.training.step for t in shown)
        figure = figures.gradient_heatmap(samples, layers=layers, steps=steps)
        save_figure(figure, folder / "gradient_heatmap.png")
