"""The course of a training, once it is clear what is trained on what: to a folder in which all is written."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

import sigmoidcore as sc
from sigmoidcore.core import SigmoidCore
from sigmoidcore.training import not_finite
from sigmoidcore.training.data import Data
from sigmoidcore.training.device import Place
from sigmoidcore.training.display import Screen, count, number, place, reached
from sigmoidcore.training.recipe import Recipe, balanced, cosine, hold_then_fall, warmed_up
from sigmoidcore.training.runs import session
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.network import Network
from sigmoidcore.training.runs.session import CtrlC
from sigmoidcore.training.runs.state import State
from sigmoidcore.training.tensorboard import FOLDER, Board
from sigmoidcore.training.watching import Record, Watched, probes, save_figures


@dataclass(frozen=True)
class Task:
    """What is trained, on what, and where.

    Attributes:
        heading: the first line that the user sees.
        name: of the network.
        data: as the network takes them.
        make: the network; it draws its weights from PyTorch's generator.
        options: of the run.
        place: where.
        ctrl_c: asked in each step.
        state: to go on from; None: from the beginning.
    """

    heading: str
    name: str
    data: Data
    make: Callable[[], Network]
    options: Mapping[str, Any]
    place: Place
    ctrl_c: CtrlC
    state: State | None = None


def lead(task: Task, run: Run, screen: Screen) -> int:
    """Train, show it, and write the run's folder; returns the exit code.

    Raises:
        Stopped: it was interrupted, or failed; what there is is written.
    """
    ctrl_c, split, epochs = task.ctrl_c, task.data, task.options["epochs"]
    record = Record(task.name, layers=0, task=split.task)
    screen.heading(task.heading)
    screen.say(split.summary)
    for note in split.notes:
        screen.say(note)
    if task.place.words:
        screen.say(task.place.words)
    screen.verbatim(f"into {run.folder}", style="dim")
    run.save_preprocessing(split.preprocessing)
    error: Exception | None = None
    stopped = False
    made: list[Network] = []
    board = Board(run.folder, task.state.step if task.state else 0) if task.options["tensorboard"] else None
    try:
        _train(task, run, screen, record, made, board)
    except KeyboardInterrupt:
        stopped = True
    except session.FAILURES as problem:
        error = problem
    if error is None:
        task.place.processes.leave()
    outcome = "interrupted" if stopped else "failed" if error else "finished"
    try:
        if board is not None:
            board.close()
        if made and not_finite.of_weights(made[0].model, record.done) is None:
            run.save_weights(made[0])
            if outcome == "finished":
                run.save_diagnosis(sc.diagnose(made[0].model, *probes(split), split.loss_fn))
        save_figures(run, {record.name: record})
        report = io.StringIO()
        _table(Screen.of_file(report), record, epochs)
        run.save_report(report.getvalue().lstrip())
        run.log("end", outcome=outcome, step=record.done, message=str(error or ""))
    except OSError as problem:
        error = error or problem  # of a full disk, the first file that did not fit is the one to tell of
    if record.result.accuracies and not isinstance(error, BrokenPipeError):
        _table(screen, record, epochs)
    if stopped:
        if not record.done:
            raise session.interrupted(
                f"interrupted before the first step; what there was is in {run.folder}", ctrl_c.code
            )
        done = f"after step {record.done:,} of {record.steps:,}"
        raise session.interrupted(
            f"interrupted {done}; metrics, figures and weights are in {run.folder}; to go on: sigmoid-core train "
            f"--resume {run.folder}",
            ctrl_c.code,
        )
    if error is not None:
        raise session.explain(error, run) from error
    screen.heading("Written")
    screen.listing(
        [
            (str(run.folder / "model.safetensors"), "weights, slopes and shifts"),
            (str(run.folder / "metrics.jsonl"), "every epoch, and every look at the gradient"),
            *([(str(run.folder / FOLDER), "for TensorBoard")] if board is not None else []),
            (str(run.folder / "figures"), "profiles, curves, heat map"),
            (str(run.folder / "diagnosis.html"), "what is wrong with the network, if anything"),
            (str(run.folder / "checkpoints"), "the last two and the best, to go on from"),
            (str(run.folder / "config.toml"), "all options, for --config"),
        ]
    )
    return 0


def follow(task: Task) -> int:
    """Train with the first process, which shows and writes everything; returns the exit code.

    Raises:
        Stopped: it was interrupted, or failed.
    """
    record = Record(task.name, layers=0, task=task.data.task)
    try:
        _train(task, None, Screen.of_file(io.StringIO()), record, [], None)
    except KeyboardInterrupt as error:
        raise session.interrupted("interrupted", task.ctrl_c.code) from error
    except session.FAILURES as error:
        raise session.of_follower(error) from error
    task.place.processes.leave()
    return 0


def _train(
    task: Task, run: Run | None, screen: Screen, record: Record, made: list[Network], board: Board | None
) -> None:
    """Make the network, prepare it and train it; `made` gets a copy on the CPU, with the last weights."""
    options, state = task.options, task.state
    torch.manual_seed(options["seed"])
    network = task.make()
    made.append(network)
    if state is not None:
        screen.say(f"goes on after step {state.step:,}")
    elif options["prepare"]:
        _prepare(screen, network, task)
    task.ctrl_c.check()
    cores = any(isinstance(module, SigmoidCore) for module in network.model.modules())
    watched = Watched(
        network.model, task.data, record, run, task.ctrl_c, saves=_cadence_of(options["save_every"]), place=task.place,
        board=board,
    )  # fmt: skip
    made[:] = [Network(network.architecture, network.sizes, watched.twin)]
    watched.train(screen, _recipe(options, task.data, cores), state)


def _prepare(screen: Screen, network: Network, task: Task) -> None:
    inputs, targets = probes(task.data)
    prepared = sc.prepare(
        network.model, inputs, targets=targets, loss_fn=task.data.loss_fn, saturation=task.options["saturation"]
    )
    screen.say(
        f"prepared in {prepared.seconds:.1f} s: spread {number(prepared.before.spread)} -> "
        f"{number(prepared.after.spread)}"
    )
    for note in prepared.notes:
        screen.say(note)


def _recipe(options: Mapping[str, Any], split: Data, cores: bool) -> Recipe:
    fall = cosine if options["schedule"] == "cosine" else hold_then_fall
    return Recipe(
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        lr=options["lr"],
        seed=options["seed"],
        equalize=options["equalize"] and cores,
        every="auto" if options["every"] == "auto" else int(options["every"]),
        weight_decay=options["weight_decay"],
        schedule=warmed_up(fall, options["warm_up"]) if options["warm_up"] else fall,
        clip=options["clip"],
        accumulate=options["accumulate"],
        patience=options["patience"],
        class_weights=balanced(split, split.outputs) if options["class_weights"] else None,
    )


def _cadence_of(save_every: str) -> Callable[[int, bool], bool]:
    """Whether a checkpoint is due after so many steps, the last of an epoch or not."""
    if save_every == "epoch":
        return lambda step, ended: ended
    steps = int(save_every)
    return lambda step, ended: step % steps == 0


def _table(screen: Screen, record: Record, epochs: int) -> None:
    result = record.result
    layers = f"{count(record.layers, place(record.end))}, " if record.profiles else ""
    screen.heading(f"{layers}{len(result.accuracies)} of {count(epochs, 'epoch')}")
    early = ", no better any more" if record.stopped_early else ""
    rows = [["steps", f"{record.done:,} of {record.steps:,}{early}"]]
    if result.accuracies:
        task = record.task
        rows += [
            [f"test {task.metric_name}", reached(task, result.accuracies[-1])],
            ["training loss", f"{result.losses[-1]:.3g}"],
        ]
    if record.profiles:
        rows += [["spread at start", number(record.start.spread)], ["spread at end", number(record.end.spread)]]
    if record.step_seconds:
        rows.append(["time per step", f"{record.milliseconds:.1f} ms"])
    screen.table(["", record.name], rows, strong=1)
    if record.profiles:
        screen.say()
        screen.profile(record.end)
