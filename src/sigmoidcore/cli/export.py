"""`sigmoid-core export`: a run's network for other programs, as plain layers."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.cli.common import MODEL, OVERWRITE, RUN, opened, using_a_run
from sigmoidcore.training.display import Screen
from sigmoidcore.training.use.export import path_of_preprocessing


class Format(StrEnum):
    """File formats of a network."""

    onnx = "onnx"
    torch = "torch"
    safetensors = "safetensors"


LOADERS = {
    Format.onnx: 'onnxruntime.InferenceSession("{}")',
    Format.torch: 'torch.export.load("{}").module()',
    Format.safetensors: 'safetensors.torch.load_file("{}"), into the torch.nn layers that its metadata name',
}
"""How to load each format without this package."""
OUTPUT = typer.Option(
    "--output", "-o", metavar="FILE", show_default="RUN.onnx, .pt2 or .safetensors, in this folder"
)  # fmt: skip


def export(
    run: RUN,
    format: Annotated[Format, typer.Option("--format", "-f", help="Format of the file.")] = Format.safetensors,
    output: Annotated[Path | None, OUTPUT] = None,
    model: MODEL = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Write a run's network folded, as plain layers that do not need this package, and its preprocessing."""
    trained = opened(run, model)
    with using_a_run():
        path = trained.export(format.value, output, overwrite=overwrite)
    screen = Screen.of_stdout()
    screen.listing(
        [(str(path), "the network, folded"), (str(path_of_preprocessing(path)), "the preprocessing of its inputs")]
    )
    screen.verbatim(f"to load it: {LOADERS[format].format(path)}")
    return 0
