"""What the commands share: errors in one line, signals that keep what is there, training that is watched."""

import copy
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore import plots
from sigmoidcore.cli.live import Meter, Screen
from sigmoidcore.equalize import Sample
from sigmoidcore.profile import Profile
from sigmoidcore.training import Progress, Recipe, Result, Split, State, Training
from sigmoidcore.training.data import Data, Kind, Task
from sigmoidcore.training.data.task import task
from sigmoidcore.training.lock import InUseError
from sigmoidcore.training.run import Run, holds_run

PROBES = 256
"""Training samples that slopes are prepared with, and that the gradient profile is measured on."""


class Stopped(Exception):
    """A command ends with a message for the user, on standard error, and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def bad_input(message: str) -> Stopped:
    """What was asked for cannot be done: exit code 2."""
    return Stopped(message, 2)


def failed(message: str) -> Stopped:
    """It was tried and went wrong: exit code 1."""
    return Stopped(message, 1)


def interrupted(message: str, code: int = 130) -> Stopped:
    """Ctrl-C, exit code 130, or another signal, 128 and its number."""
    return Stopped(message, code)


FAILURES = (ArithmeticError, MemoryError, OSError, RuntimeError, ValueError)
"""What may go wrong in a run that nobody's mistake in the code explains."""


def explain(error: Exception, run: Run) -> Stopped:
    """The end of a run that failed; what it has is written by now.

    Raises:
        BrokenPipeError: the reader of the output has gone, and there is nobody to explain it to.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    reason = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in reason:
        reason = "not enough memory: lower the width, the depth or the batch size"
    return failed(f"{reason}; what there was is in {run.folder}")


class CtrlC:
    """Takes the first Ctrl-C or SIGTERM as a wish to stop after this step, nothing half done; the second stops at once.

    Attributes:
        code: the exit code: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self) -> None:
        self.code = 130
        self._asked = False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether somebody wants it to stop."""
        return self._asked

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody wants it to stop."""
        if self._asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        """Begin to listen; not where Ctrl-C is ignored (nohup), nor outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked, self.code = True, 128 + number


@dataclass
class Record:
    """What is known of one training run so far; complete or not.

    Attributes:
        name: of the network.
        layers: number of cores.
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
        """The profile before the first step."""
        return next(iter(self.profiles.values()))

    @property
    def end(self) -> Profile:
        """The last profile that was measured."""
        return next(reversed(self.profiles.values()))

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
        run: where metrics go.
        ctrl_c: asked after each step.
        observe: steps between two measurements of the profile; None: at the ends of epochs.
        saves: whether a checkpoint is due after so many steps, the last of an epoch or not; None: there are none.
    """

    def __init__(
        self, model: nn.Module, split: Split | Data, record: Record, run: Run, ctrl_c: CtrlC,
        observe: int | None = None, saves: Callable[[int, bool], bool] | None = None,
    ) -> None:  # fmt: skip
        self.model = model
        self.split = split
        self.record = record
        self.run = run
        self.ctrl_c = ctrl_c
        self.observe = observe
        self.saves = saves
        self._twin = copy.deepcopy(model)
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
            self._measure(0)  # before the training is made: what it draws is not part of it
        training = Training(self.model, self.split, recipe, state)
        self.record.steps = training.steps
        if state is not None:
            self._recall(training, state)
        elif self.saves is not None:
            self._save(training)
        try:
            with screen.training(self.record.name, recipe.epochs) as meter:
                meter.task = self.record.task
                self._resumed = time.perf_counter()
                result = training.run(lambda progress: self._on_step(progress, meter, training))
        finally:
            self.record.done = training.step
            if self.record.done not in self.record.profiles:
                self._measure(self.record.done)
        self.record.stopped_early = training.stopped_early
        if result.interrupted:
            raise KeyboardInterrupt

    def _on_step(self, progress: Progress, meter: Meter, training: Training) -> None:
        record = self.record
        record.done = progress.step
        if progress.accuracy is None:  # The last step of an epoch holds the evaluation as well.
            record.step_seconds.append(time.perf_counter() - self._resumed)
        self._take_samples(progress)
        if progress.accuracy is not None or (self.observe and progress.step % self.observe == 0):
            self._measure(progress.step)
        if progress.accuracy is not None and progress.epoch_loss is not None:
            record.result.accuracies.append(progress.accuracy)
            record.result.losses.append(progress.epoch_loss)
            self.run.log(
                "epoch",
                network=record.name,
                epoch=progress.epoch + 1,
                step=progress.step,
                loss=progress.epoch_loss,
                accuracy=progress.accuracy,
                spread=record.end.spread,
                seconds=round(progress.seconds, 3),
            )
        meter.update(progress, self._spread, record.end)
        ended = progress.accuracy is not None
        if self.saves is not None and (self.ctrl_c.asked or self.saves(progress.step, ended) or self._is_best(ended)):
            self._save(training)
        self.ctrl_c.check()
        self._resumed = time.perf_counter()

    def _is_best(self, ended: bool) -> bool:
        reached = self.record.result.accuracies
        return ended and reached[-1] > max(reached[:-1], default=-math.inf)

    def _save(self, training: Training) -> None:
        state = training.state()
        record = self.record
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
        record.profiles = dict(_as_profile(known[when]) for when in ("start", "end"))
        self._spread = record.end.spread
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
        self.run.log(
            "sample",
            network=self.record.name,
            step=sample.step,
            spread=sample.spread,
            slopes=sample.slopes,
            neurons=sample.neurons,
            log_sizes=[round(size, 4) for size in sample.log_sizes],
        )

    def _measure(self, step: int) -> None:
        self._twin.load_state_dict(self.model.state_dict())
        profile = profile_of(self._twin, self.split)
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


def create_run(name: str, options: Mapping[str, Any], folder: Path | None, overwrite: bool | None = None) -> Run:
    """The run's folder; `overwrite` is None where a command has no such option.

    Raises:
        Stopped: it cannot be had, with code 2.
    """
    try:
        return Run.create(name, options, folder=folder, overwrite=bool(overwrite))
    except FileExistsError as error:
        assert folder is not None
        if not folder.is_dir():
            raise bad_input(f"{folder} is a file: give a folder as --output") from error
        if not holds_run(folder):
            raise bad_input(f"{folder} is not empty and holds no run: give another --output") from error
        remedy = "" if overwrite is None else ", or --overwrite to replace it"
        raise bad_input(f"{folder} holds a run already: give another --output{remedy}") from error
    except InUseError as error:
        raise bad_input(str(error)) from error
    except OSError as error:
        where = "runs, in this folder" if folder is None else folder
        raise bad_input(f"cannot write {where}: {error.strerror or error}; give another --output") from error


def save_figures(run: Run, records: Mapping[str, Record]) -> list[Path]:
    """Draw what there is of profiles, learning curves and heat map; the last record has the first colour."""
    records = {name: record for name, record in records.items() if record.profiles}
    last_first = dict(reversed(records.items()))
    paths = []
    if records:
        profiles = {f"{name}, {when}": p for name, r in last_first.items() for when, p in ends(r).items()}
        paths.append(run.save_figure("gradient_profiles", plots.gradient_profiles(profiles)))
        if any(record.result.losses for record in records.values()):
            results = {name: record.result for name, record in last_first.items()}
            curves = plots.learning_curves(results, next(iter(records.values())).task.metric_name)
            paths.append(run.save_figure("learning_curves", curves))
        sampled = {name: record for name, record in records.items() if record.samples}
        if sampled:
            heatmap = plots.gradient_heatmap(
                {name: record.samples for name, record in sampled.items()},
                layers=max(record.layers for record in sampled.values()),
                steps=max(record.done for record in sampled.values()),
            )
            paths.append(run.save_figure("gradient_heatmap", heatmap))
    return paths


def ends(record: Record) -> dict[str, Profile]:
    """The profile before training and, if there was any, the last one."""
    return {"at the start": record.start} | ({"at the end": record.end} if record.done else {})


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads for a while.

    Two threads wait for each other after every layer; where layers are small, or another program wants a core as well,
    that takes longer than the layer.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take denormal numbers as 0 for a while: some vanished gradients are such, and a CPU may be slow on them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
