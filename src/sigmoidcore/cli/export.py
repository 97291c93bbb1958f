"""`sigmoid-core export`: a run's network for other programs, as plain layers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sigmoidcore.cli.common import OVERWRITE, RUN, opened
from sigmoidcore.training.display import Screen
from sigmoidcore.training.use import path_of_preprocessing

LOADERS = {
    "onnx": 'onnxruntime.InferenceSession("{}")',
    "safetensors": 'safetensors.torch.load_file("{}"), into the torch.nn layers that its metadata name',
}
"""How to load each format without this package."""
FORMAT = typer.Option("--format", "-f", help="Format of the file.")
OUTPUT = typer.Option("--output", "-o", metavar="FILE", show_default="RUN.onnx or RUN.safetensors, in this folder")


def export(
    run: RUN,
    format: Annotated[Literal["onnx", "safetensors"], FORMAT] = "safetensors",
    output: Annotated[Path | None, OUTPUT] = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Write a run's network folded, as plain layers that do not need this package, and its preprocessing."""
    path = opened(run).export(format, output, overwrite=overwrite)
    screen = Screen.of_stdout()
    screen.listing(
        [(str(path), "the network, folded"), (str(path_of_preprocessing(path)), "the preprocessing of its inputs")]
    )
    screen.verbatim(f"to load it: {LOADERS[format].format(path)}")
    return 0
