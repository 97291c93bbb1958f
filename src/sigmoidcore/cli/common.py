"""The common part of the commands that use a run: their arguments, errors in one line, and signals."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from sigmoidcore.training.data import DataError
from sigmoidcore.training.runs.network import NetworkError
from sigmoidcore.training.session import bad_input, failed, interrupted
from sigmoidcore.training.use.trained import TrainedRun, open_run, preprocessing_of
from sigmoidcore.training.user_code import users_model

RUN = Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="Folder of a run.")]
MODEL = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODULE:FUNCTION", help="Your function that made the run's network. Your code is executed."
    ),
]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn errors of runs, data and missing packages into the end of the command, with code 2 or 1."""
    try:
        yield
    except (DataError, NetworkError) as error:
        raise bad_input(str(error)) from error
    except ModuleNotFoundError as error:
        raise failed(str(error)) from error


@contextmanager
def using_a_run() -> Iterator[None]:
    """`errors_in_one_line`, and Ctrl-C and SIGTERM end the command so that no incomplete file is left."""

    def end(number: int, frame: FrameType | None) -> None:
        raise interrupted("ended by SIGTERM; nothing was written", 128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if is_main else None
    try:
        with errors_in_one_line():
            yield
    except KeyboardInterrupt as error:
        raise interrupted("interrupted; nothing was written") from error
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def opened(folder: Path, model: str | None) -> TrainedRun:
    """A run, with the network of the user's function `model` (`package.module:name`) if there is one."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise bad_input(f"{folder} {what}: give the folder of a run; `sigmoid-core runs` lists them")
    with errors_in_one_line():
        if model is None:
            return open_run(folder)
        preprocessing = preprocessing_of(folder)
    return open_run(folder, users_model(model, preprocessing.inputs.shape, preprocessing.target.outputs))
