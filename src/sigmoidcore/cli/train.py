"""`sigmoid-core train`: trains a network of cores and leaves a folder with its metrics, figures and weights."""

import io
import math
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import sigmoidcore as sc
from sigmoidcore.cli import data as data_options
from sigmoidcore.cli import session
from sigmoidcore.cli.again import Resumed, options_of, refuse_typed, take_config, take_resume
from sigmoidcore.cli.live import Screen, count, number, reached
from sigmoidcore.cli.session import CtrlC, Record, Watched
from sigmoidcore.training import Recipe, State, not_finite
from sigmoidcore.training.data import BUILT_IN, Data
from sigmoidcore.training.network import Network
from sigmoidcore.training.network import network as new_network
from sigmoidcore.training.recipe import balanced, cosine, hold_then_fall, warmed_up
from sigmoidcore.training.run import Run


class TargetKind(StrEnum):
    """What a target may be said to be."""

    classes = "class"
    number = "number"


class Fall(StrEnum):
    """How the rates fall to 0."""

    linear = "linear"
    cosine = "cosine"


def _rate(value: float) -> float:
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a positive number; 0.03 is the usual choice.")
    return value


def _level(value: float) -> float:
    if not 0 < value <= 100:
        raise typer.BadParameter(f"{value} is not above 0 and at most 100; 0.5 is the usual choice, 3 is a lot.")
    return value


def _cadence(value: str) -> str:
    if value != "auto" and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise typer.BadParameter(f"{value!r} is neither 'auto' nor a number of steps of at least 1.")
    return value


def _at_least_0(value: float) -> float:
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is not a number of at least 0.")
    return value


def _above_0(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a positive number; 1 is a usual choice.")
    return value


def _saves(value: str) -> str:
    if value != "epoch" and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise typer.BadParameter(f"{value!r} is neither 'epoch' nor a number of steps of at least 1.")
    return value


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="SOURCE",
            callback=data_options.source,
            help=f"What to learn: {', '.join(BUILT_IN)}; a CSV, TSV, Parquet, Feather, NPZ or NPY file; or a folder of "
            "images by class, of idx files or of Parquet files.",
        ),
    ] = "digits",
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="COLUMN", help="The column that is learnt; several if they are numbers."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", metavar="COLUMN", help="A column that is left out; may be given several times."),
    ] = None,
    kind: Annotated[
        TargetKind | None,
        typer.Option("--kind", show_default="found", help="What the target is, where that is not found right."),
    ] = None,
    test_size: Annotated[
        float | None,
        typer.Option(
            "--test-size",
            callback=data_options.share,
            metavar="SHARE",
            show_default="0.2, or the set's own split",
            help="Of the samples that are kept for the test.",
        ),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=1, help="Hidden layers.")] = 100,
    width: Annotated[int, typer.Option("--width", metavar="N", min=1, help="Neurons of a hidden layer.")] = 64,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Passes over the training samples.")] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Samples a step.")] = 100,
    lr: Annotated[
        float, typer.Option("--lr", callback=_rate, metavar="X", help="Learning rate, the same for any depth.")
    ] = 0.03,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Of split, weights and order of samples.")
    ] = 0,
    saturation: Annotated[
        float,
        typer.Option("--saturation", callback=_level, metavar="X", help="Deviation of z at the first core."),
    ] = 0.5,
    equalize: Annotated[
        bool, typer.Option("--equalize/--no-equalize", help="Watch the slopes, or leave them alone once prepared.")
    ] = True,
    every: Annotated[
        str, typer.Option("--every", callback=_cadence, metavar="STEPS", help="How often the gradient is looked at.")
    ] = "auto",
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", callback=_at_least_0, metavar="X", help="Of AdamW.")
    ] = 0.0,
    schedule: Annotated[
        Fall, typer.Option("--schedule", help="How rates fall to 0: in a line over the second half, or a cosine.")
    ] = Fall.linear,
    warm_up: Annotated[
        int, typer.Option("--warm-up", metavar="STEPS", min=0, help="Steps in which the rates rise to their peak.")
    ] = 0,
    clip: Annotated[
        float | None,
        typer.Option("--clip", callback=_above_0, metavar="X", help="Largest size of the whole gradient."),
    ] = None,
    accumulate: Annotated[
        int, typer.Option("--accumulate", metavar="N", min=1, help="Parts that a batch is computed in, to save memory.")
    ] = 1,
    patience: Annotated[
        int | None,
        typer.Option("--patience", metavar="N", min=1, help="Epochs without a better metric that end the training."),
    ] = None,
    class_weights: Annotated[
        bool, typer.Option("--class-weights", help="Count a class the more, the fewer samples it has.")
    ] = False,
    threads: Annotated[
        int,
        typer.Option("--threads", metavar="N", min=1, help="Processor cores; several pay for wide layers."),
    ] = 1,
    save_every: Annotated[
        str,
        typer.Option("--save-every", callback=_saves, metavar="STEPS", help="Between checkpoints; 'epoch' for epochs."),
    ] = "epoch",
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", is_eager=True, callback=take_config, help="Options of a config.toml."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", is_eager=True, callback=take_resume, help="Go on with a stopped run."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Where the run goes.", show_default="runs/DATA-DEPTHxWIDTH-N"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that FOLDER holds.")] = False,
) -> int:
    """Train a plain network of sigmoids of any depth; metrics, figures and weights go into a folder."""
    options = options_of(context)
    if accumulate > batch_size:
        raise session.bad_input(f"--accumulate {accumulate} is more than the {batch_size} samples of a batch: lower it")
    screen = Screen.of_stdout()
    resumed = context.obj if isinstance(context.obj, Resumed) else None
    if resumed is not None:
        refuse_typed(context)
    with CtrlC() as ctrl_c, session.threads(threads):
        split = data_options.data_of(data, target or (), drop or (), kind, test_size, seed)
        if resumed is not None:
            with resumed.run:
                return _go_on(screen, resumed, ctrl_c, split, options)
        if class_weights and not split.kind.is_class:
            raise session.bad_input("--class-weights is for classes, and the target is a number: leave it out")
        name = f"{data_options.file_name(split)}-{depth}x{width}"
        run = session.create_run(name, options, output, overwrite)
        with run:
            return _train(screen, run, ctrl_c, split, options)


def _go_on(screen: Screen, resumed: Resumed, ctrl_c: CtrlC, split: Data, options: Mapping[str, Any]) -> int:
    run, read = resumed.run, resumed.read
    if read is None:
        run.begin()
        return _train(screen, run, ctrl_c, split, options)
    try:
        for sentence in run.go_on(read):
            print(f"sigmoid-core: {sentence}", file=sys.stderr)
    except ValueError as error:
        raise session.bad_input(str(error)) from error
    return _train(screen, run, ctrl_c, split, options, read.state)


def _train(
    screen: Screen, run: Run, ctrl_c: CtrlC, split: Data, options: Mapping[str, Any], state: State | None = None
) -> int:
    depth, width, epochs = options["depth"], options["width"], options["epochs"]
    features = split.shape[0]
    record = Record("Sigmoid Core", layers=depth, task=split.task)
    screen.heading(
        f"{split.name}: {features} inputs, {count(depth, 'layer')} of {width} sigmoids, {data_options.outputs(split)}"
    )
    screen.say(data_options.learnt(split))
    for note in split.notes:
        screen.say(note)
    screen.verbatim(f"into {run.folder}", style="dim")
    torch.manual_seed(options["seed"])
    run.save_preprocessing(split.preprocessing)
    error: Exception | None = None
    stopped = False
    network: Network | None = None
    try:
        network = new_network("mlp", in_features=features, width=width, depth=depth, out_features=split.outputs)
        model = network.model
        if state is None:
            _prepare(screen, model, split, options["saturation"])
        else:
            screen.say(f"goes on after step {state.step:,}")
        ctrl_c.check()
        Watched(model, split, record, run, ctrl_c, saves=_cadence_of(options["save_every"])).train(
            screen, _recipe(options, split), state
        )
    except KeyboardInterrupt:
        stopped = True
    except session.FAILURES as problem:
        error = problem
    outcome = "interrupted" if stopped else "failed" if error else "finished"
    try:
        if network is not None and not_finite.of_weights(network.model, record.done) is None:
            run.save_weights(network)
            if outcome == "finished":
                run.save_diagnosis(sc.diagnose(network.model, *session.probes(split), split.loss_fn))
        session.save_figures(run, {record.name: record})
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
            (str(run.folder / "figures"), "profiles, curves, heat map"),
            (str(run.folder / "diagnosis.html"), "what is wrong with the network, if anything"),
            (str(run.folder / "checkpoints"), "the last two and the best, to go on from"),
            (str(run.folder / "config.toml"), "all options, for --config"),
        ]
    )
    return 0


def _prepare(screen: Screen, model: nn.Module, split: Data, saturation: float) -> None:
    inputs, targets = session.probes(split)
    prepared = sc.prepare(model, inputs, targets=targets, loss_fn=split.loss_fn, saturation=saturation)
    screen.say(
        f"prepared in {prepared.seconds:.1f} s: spread {number(prepared.before.spread)} -> "
        f"{number(prepared.after.spread)}"
    )
    for note in prepared.notes:
        screen.say(note)


def _recipe(options: Mapping[str, Any], split: Data) -> Recipe:
    fall = cosine if options["schedule"] == Fall.cosine else hold_then_fall
    return Recipe(
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        lr=options["lr"],
        seed=options["seed"],
        equalize=options["equalize"],
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
    screen.heading(f"{count(record.layers, 'layer')}, {len(result.accuracies)} of {count(epochs, 'epoch')}")
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
