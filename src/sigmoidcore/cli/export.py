"""`sigmoid-core export`: a run's network for other programs, as plain layers."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.cli.common import in_one_line, nothing_left, opened
from sigmoidcore.cli.predict import MODEL, OVERWRITE, RUN
from sigmoidcore.training.display import Screen
from sigmoidcore.training.use.export import beside_of


class Format(StrEnum):
    """What a network can be written as."""

    onnx = "onnx"
    torch = "torch"
    safetensors = "safetensors"


LOADED = {
    Format.onnx: 'onnxruntime.InferenceSession("{}")',
    Format.torch: 'torch.export.load("{}").module()',
    Format.safetensors: 'safetensors.torch.load_file("{}"), into the torch.nn layers that its metadata name',
}
"""How each is loaded, without this package."""


def export(
    run: RUN,
    format: Annotated[Format, typer.Option("--format", "-f", help="What it becomes.")] = Format.safetensors,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="RUN.onnx, .pt2 or .safetensors, in this folder"),
    ] = None,
    model: MODEL = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Write a run's network folded: plain layers, that need this package no more; and its preprocessing beside it."""
    trained = opened(run, model)
    with in_one_line(), nothing_left():
        path = trained.export(format.value, output, overwrite=overwrite)
    screen = Screen.of_stdout()
    screen.listing([(str(path), "the network, folded"), (str(beside_of(path)), "how data become its inputs")])
    screen.verbatim(f"to load it: {LOADED[format].format(path)}")
    return 0
