"""`sigmoid-core train`: trains a network of cores and leaves a folder with its metrics, figures and weights."""

import io
import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import nn

import sigmoidcore as sc
from sigmoidcore.cli import session
from sigmoidcore.cli.live import Screen, count, number, percent
from sigmoidcore.cli.session import CtrlC, Record, Watched
from sigmoidcore.training import Split, digits, fashion_mnist
from sigmoidcore.training.run import Run


class Data(StrEnum):
    """The data sets."""

    digits = "digits"
    fashion_mnist = "fashion-mnist"


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


def train(
    data: Annotated[Data, typer.Option("--data", help="What to learn.")] = Data.digits,
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=1, help="Hidden layers.")] = 100,
    width: Annotated[int, typer.Option("--width", metavar="N", min=1, help="Neurons of a hidden layer.")] = 64,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Passes over the training samples.")] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Samples a step.")] = 100,
    lr: Annotated[
        float, typer.Option("--lr", callback=_rate, metavar="X", help="Learning rate, the same for any depth.")
    ] = 0.03,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Of weights and of the order of samples.")
    ] = 0,
    saturation: Annotated[
        float,
        typer.Option("--saturation", callback=_level, metavar="X", help="Deviation of z at the first core."),
    ] = 0.5,
    no_equalize: Annotated[
        bool, typer.Option("--no-equalize", help="Prepare the slopes, then leave them alone.")
    ] = False,
    every: Annotated[
        str, typer.Option("--every", callback=_cadence, metavar="STEPS", help="How often the gradient is looked at.")
    ] = "auto",
    threads: Annotated[
        int,
        typer.Option("--threads", metavar="N", min=1, help="Processor cores; several pay for wide layers."),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Where the run goes.", show_default="runs/DATA-DEPTHxWIDTH-N"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that FOLDER holds.")] = False,
) -> int:
    """Train a plain network of sigmoids of any depth; metrics, figures and weights go into a folder."""
    options = {
        "data": data.value, "depth": depth, "width": width, "epochs": epochs, "batch_size": batch_size, "lr": lr,
        "seed": seed, "saturation": saturation, "equalize": not no_equalize, "every": every, "threads": threads,
    }  # fmt: skip
    screen = Screen.of_stdout()
    with CtrlC() as ctrl_c, session.threads(threads):
        split = _load(data)
        name = f"{data.value}-{depth}x{width}"
        run = session.create_run(name, options, output, overwrite)
        with run:
            return _train(screen, run, ctrl_c, split, options)


def _load(data: Data) -> Split:
    try:
        return digits() if data is Data.digits else fashion_mnist()
    except (FileNotFoundError, ValueError) as error:
        raise session.bad_input(str(error)) from error


def _train(screen: Screen, run: Run, ctrl_c: CtrlC, split: Split, options: Mapping[str, Any]) -> int:
    depth, width, epochs = options["depth"], options["width"], options["epochs"]
    features = split.train_x.shape[1]
    record = Record("Sigmoid Core", layers=depth)
    screen.heading(
        f"{split.name}: {features} inputs, {count(depth, 'layer')} of {width} sigmoids, {split.classes} classes"
    )
    screen.verbatim(f"into {run.folder}", style="dim")
    torch.manual_seed(options["seed"])
    error: Exception | None = None
    stopped = False
    model: nn.Module | None = None
    try:
        model = sc.MLP(features, width, depth, split.classes)
        inputs, targets = session.probes(split)
        prepared = sc.prepare(
            model, inputs, targets=targets, loss_fn=nn.functional.cross_entropy, saturation=options["saturation"]
        )
        screen.say(
            f"prepared in {prepared.seconds:.1f} s: spread {number(prepared.before.spread)} -> "
            f"{number(prepared.after.spread)}"
        )
        for note in prepared.notes:
            screen.say(note)
        ctrl_c.check()
        every: int | Literal["auto"] = "auto" if options["every"] == "auto" else int(options["every"])
        Watched(model, split, record, run, ctrl_c).train(
            screen,
            epochs=epochs,
            batch_size=options["batch_size"],
            lr=options["lr"],
            seed=options["seed"],
            equalize=options["equalize"],
            every=every,
        )
    except KeyboardInterrupt:
        stopped = True
    except session.FAILURES as problem:
        error = problem
    if model is not None:
        run.save_weights(model, in_features=features, width=width, depth=depth, out_features=split.classes)
    session.save_figures(run, {record.name: record})
    report = io.StringIO()
    _table(Screen.of_file(report), record, epochs)
    run.save_report(report.getvalue().lstrip())
    outcome = "interrupted" if stopped else "failed" if error else "finished"
    run.log("end", outcome=outcome, step=record.done, message=str(error or ""))
    if record.result.accuracies and not isinstance(error, BrokenPipeError):
        _table(screen, record, epochs)
    if stopped:
        if not record.done:
            raise session.interrupted(f"interrupted before the first step; what there was is in {run.folder}")
        done = f"after step {record.done:,} of {record.steps:,}"
        raise session.interrupted(f"interrupted {done}; metrics, figures and weights are in {run.folder}")
    if error is not None:
        raise session.explain(error, run) from error
    screen.heading("Written")
    screen.listing(
        [
            (str(run.folder / "model.safetensors"), "weights, slopes and shifts"),
            (str(run.folder / "metrics.jsonl"), "every epoch, and every look at the gradient"),
            (str(run.folder / "figures"), "profiles, curves, heat map"),
            (str(run.folder / "config.json"), "all options and versions"),
        ]
    )
    return 0


def _table(screen: Screen, record: Record, epochs: int) -> None:
    result = record.result
    screen.heading(f"{count(record.layers, 'layer')}, {len(result.accuracies)} of {count(epochs, 'epoch')}")
    rows = [["steps", f"{record.done:,} of {record.steps:,}"]]
    if result.accuracies:
        rows += [["test accuracy", percent(result.accuracies[-1])], ["training loss", f"{result.losses[-1]:.3g}"]]
    if record.profiles:
        rows += [["spread at start", number(record.start.spread)], ["spread at end", number(record.end.spread)]]
    if record.step_seconds:
        rows.append(["time per step", f"{record.milliseconds:.1f} ms"])
    screen.table(["", record.name], rows, strong=1)
    if record.profiles:
        screen.say()
        screen.profile(record.end)
