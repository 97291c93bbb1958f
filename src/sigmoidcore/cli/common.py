"""The arguments that commands share, and the run that they name."""

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
