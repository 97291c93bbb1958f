"""`sigmoid-core train`: trains a network of cores and leaves a folder with its metrics, figures and weights."""

import contextlib
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.cli import board, session
from sigmoidcore.cli import data as data_options
from sigmoidcore.cli.again import Resumed, options_of, refuse_typed, take_config, take_resume
from sigmoidcore.cli.course import Task, follow, lead
from sigmoidcore.cli.live import Screen
from sigmoidcore.cli.network import chosen
from sigmoidcore.cli.session import CtrlC
from sigmoidcore.training.data import BUILT_IN
from sigmoidcore.training.place import Place, place_of
from sigmoidcore.training.run import Run

MOST = 2**31 - 1
"""No number of steps, samples or neurons is larger."""


class TargetKind(StrEnum):
    """What a target may be said to be."""

    classes = "class"
    number = "number"


class Fall(StrEnum):
    """How the rates fall to 0."""

    linear = "linear"
    cosine = "cosine"


class NetworkKind(StrEnum):
    """A network of cores for a kind of data."""

    mlp = "mlp"
    conv = "conv"
    rnn = "rnn"
    auto = "auto"


class Device(StrEnum):
    """Where the network is."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(StrEnum):
    """Of matrix products."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


def _rate(value: float) -> float:
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a positive number; 0.03 is the usual choice.")
    return value


def _level(value: float) -> float:
    if not 0 < value <= 100:
        raise typer.BadParameter(f"{value} is not above 0 and at most 100; 0.5 is the usual choice, 3 is a lot.")
    return value


def _cadence(value: str) -> str:
    if value != "auto" and not (value.isascii() and value.isdigit() and 0 < int(value[:12]) <= MOST):
        raise typer.BadParameter(f"{value[:40]!r} is neither 'auto' nor a number of steps of at least 1.")
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
    if value != "epoch" and not (value.isascii() and value.isdigit() and 0 < int(value[:12]) <= MOST):
        raise typer.BadParameter(f"{value[:40]!r} is neither 'epoch' nor a number of steps of at least 1.")
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
    network: Annotated[
        NetworkKind,
        typer.Option("--network", help="Of cores: layers, convolutions for images, or recurrent for sequences."),
    ] = NetworkKind.mlp,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODULE:FUNCTION",
            help="Your own network: the function is imported from this folder and RUN, with the shape of a sample and "
            "the number of outputs.",
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth", metavar="N", min=1, max=MOST, show_default="100; conv 20, rnn 1", help="Hidden layers."
        ),
    ] = None,
    width: Annotated[
        int, typer.Option("--width", metavar="N", min=1, max=MOST, help="Neurons of a hidden layer, or its channels.")
    ] = 64,
    epochs: Annotated[
        int, typer.Option("--epochs", metavar="N", min=1, max=MOST, help="Passes over the training samples.")
    ] = 10,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, max=MOST, help="Samples a step.")
    ] = 100,
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
    prepare: Annotated[
        bool | None,
        typer.Option(
            "--prepare/--no-prepare",
            show_default="yes, and no for --model",
            help="Fresh weights and slopes for depth, before the first step.",
        ),
    ] = None,
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
        int,
        typer.Option(
            "--warm-up", metavar="STEPS", min=0, max=MOST, help="Steps in which the rates rise to their peak."
        ),
    ] = 0,
    clip: Annotated[
        float | None,
        typer.Option("--clip", callback=_above_0, metavar="X", help="Largest size of the whole gradient."),
    ] = None,
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate", metavar="N", min=1, max=MOST, help="Parts that a batch is computed in, to save memory."
        ),
    ] = 1,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", metavar="N", min=1, max=MOST, help="Epochs without a better metric that end the training."
        ),
    ] = None,
    class_weights: Annotated[
        bool, typer.Option("--class-weights", help="Count a class the more, the fewer samples it has.")
    ] = False,
    device: Annotated[
        Device, typer.Option("--device", help="Where the network is; auto: a GPU if there is one.")
    ] = Device.auto,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of matrix products: float32, or mixed with bfloat16 or float16.")
    ] = Precision.no,
    shard: Annotated[
        bool,
        typer.Option("--shard", help="Of several processes: spread the weights over them (FSDP), not copy them (DDP)."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write numbers for TensorBoard into the run's folder, too.")
    ] = False,
    threads: Annotated[
        int,
        typer.Option("--threads", metavar="N", min=1, max=1024, help="Processor cores; several pay for wide layers."),
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
    if tensorboard:
        board.check()
    resumed = context.obj if isinstance(context.obj, Resumed) else None
    if resumed is not None:
        refuse_typed(context)
    place = _place(device, precision, shard)
    processes = place.processes
    with CtrlC(patient=processes.count > 1) as ctrl_c, session.threads(threads):
        data_set = processes.outcome(
            lambda: data_options.data_of(data, target or (), drop or (), kind, test_size, seed)
        )
        if class_weights and not data_set.kind.is_class:
            raise session.bad_input("--class-weights is for classes, and the target is a number: leave it out")
        it = processes.outcome(lambda: chosen(context, options, data_set))
        options |= it.options
        runs: list[Run] = []
        state = resumed.read.state if resumed is not None and resumed.read is not None else None
        if resumed is not None:
            processes.by_first(lambda: _go_on(resumed, runs))
        else:
            processes.by_first(lambda: runs.append(session.create_run(it.folder, options, output, overwrite)))
        with contextlib.ExitStack() as stack:
            task = Task(it.heading, it.name, it.data, it.make, options, place, ctrl_c, state)
            return lead(task, stack.enter_context(runs[0]), Screen.of_stdout()) if runs else follow(task)


def _place(device: Device, precision: Precision, shard: bool) -> Place:
    try:
        return place_of(device.value, precision.value, shard)
    except ValueError as error:
        raise session.bad_input(f"{error} (--device, --precision)") from error
    except ModuleNotFoundError as error:
        raise session.failed(str(error)) from error


def _go_on(resumed: Resumed, runs: list[Run]) -> None:
    """Let a run's folder be as it was when its last checkpoint was written; `runs` gets the run."""
    run, read = resumed.run, resumed.read
    assert run is not None
    runs.append(run)
    if read is None:
        run.begin()
        return
    try:
        for sentence in run.go_on(read):
            print(f"sigmoid-core: {sentence}", file=sys.stderr)
    except ValueError as error:
        raise session.bad_input(str(error)) from error
