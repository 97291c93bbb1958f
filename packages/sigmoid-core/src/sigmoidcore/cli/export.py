"""`sigmoid-core export`: a run's network for other programs, as plain layers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sigmoidcore.cli.common import OVERWRITE, RUN, opened
from sigmoidcore.training.display import Screen
from sigmoidcore.training.use import path_of_preprocessing
from sigmoidcore.language import _

LOADERS = {"onnx": 'onnxruntime.InferenceSession("{}")', "safetensors": 'safetensors.torch.load_file("{}")'}
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
        [
            (str(path), _("the network, folded")),
            (str(path_of_preprocessing(path)), _("the preprocessing of its inputs")),
        ]
    )
    loader = LOADERS[format].format(path)
    if format == "safetensors":
        loader = _("{call}, into the torch.nn layers that its metadata name", call=loader)
    screen.verbatim(_("to load it: {how}", how=loader))
    return 0
