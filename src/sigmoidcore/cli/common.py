"""The arguments that commands share, and the run that they name."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.training.session import bad_input
from sigmoidcore.training.use import TrainedRun, open_run, preprocessing_of
from sigmoidcore.training.user_code import users_model

RUN = Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="Folder of a run.")]
MODEL = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODULE:FUNCTION", help="Your function that made the run's network. Your code is executed."
    ),
]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


def opened(folder: Path, model: str | None) -> TrainedRun:
    """A run, with the network of the user's function `model` (`package.module:name`) if there is one."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise bad_input(f"{folder} {what}: give the folder of a run; `sigmoid-core runs` lists them")
    if model is None:
        return open_run(folder)
    preprocessing = preprocessing_of(folder)
    return open_run(folder, users_model(model, preprocessing.inputs.shape, preprocessing.target.outputs))


def print_json(text: str) -> None:
    """Print JSON, with characters that the output cannot encode or that could control a terminal as escapes."""
    encoding = sys.stdout.encoding or "utf-8"

    def written(found: re.Match[str]) -> str:
        return (
            found[0] if found[0].isprintable() and found[0].encode(encoding, "ignore") else json.dumps(found[0])[1:-1]
        )

    print(re.sub(r"[^ -~\n]", written, text))
