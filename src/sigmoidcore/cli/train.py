"""`sigmoid-core train`: trains a network of cores and leaves a folder with its metrics, figures and weights."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sigmoidcore.training.begin import begin
from sigmoidcore.training.data import BUILT_IN
from sigmoidcore.training.options import MOST, OPTIONS, where_it_is
from sigmoidcore.training.runs.resume import Resumed, options_of, refuse, resumed


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


def _checked(parameter: typer.CallbackParam, value: Any) -> Any:
    """A value, if nothing is wrong with it: the callback of options that typer knows too little of."""
    wrong = OPTIONS[parameter.name or ""].check(value) if value is not None else ""
    if wrong:
        raise typer.BadParameter(wrong)
    return value


def _take_config(context: typer.Context, file: Path | None) -> Path | None:
    """Let a config's options be the defaults of those that are not typed: the callback of --config."""
    if file is not None:
        context.default_map = {**(context.default_map or {}), **options_of(file)}
    return file


def _take_resume(context: typer.Context, folder: Path | None) -> Path | None:
    """Take a run's folder, its last sound checkpoint and its options: the callback of --resume."""
    if folder is not None:
        context.obj = resumed(folder)
        context.call_on_close(context.obj.close)
        context.default_map = {**(context.default_map or {}), **context.obj.options}
    return folder


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="SOURCE",
            callback=where_it_is,
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
            callback=_checked,
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
        float, typer.Option("--lr", callback=_checked, metavar="X", help="Learning rate, the same for any depth.")
    ] = 0.03,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Of split, weights and order of samples.")
    ] = 0,
    saturation: Annotated[
        float,
        typer.Option("--saturation", callback=_checked, metavar="X", help="Deviation of z at the first core."),
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
        str, typer.Option("--every", callback=_checked, metavar="STEPS", help="How often the gradient is looked at.")
    ] = "auto",
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", callback=_checked, metavar="X", help="Of AdamW.")
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
        typer.Option("--clip", callback=_checked, metavar="X", help="Largest size of the whole gradient."),
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
        typer.Option(
            "--save-every", callback=_checked, metavar="STEPS", help="Between checkpoints; 'epoch' for epochs."
        ),
    ] = "epoch",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", is_eager=True, callback=_take_config, help="Options of a config.toml."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", is_eager=True, callback=_take_resume, help="Go on with a stopped run."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Where the run goes.", show_default="runs/DATA-DEPTHxWIDTH-N"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that FOLDER holds.")] = False,
) -> int:
    """Train a plain network of sigmoids of any depth; metrics, figures and weights go into a folder."""
    options = {name: getattr(context.params[name], "value", context.params[name]) for name in OPTIONS}
    named = [name for name in context.params if name != "resume" and _is_typed(context, name)]
    goes_on = context.obj if isinstance(context.obj, Resumed) else None
    if goes_on is not None:
        refuse(named)
    return begin(options, own_code="model" in named, shard=shard, output=output, overwrite=overwrite, resumed=goes_on)


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
