"""What the commands that use a run share: errors in one line, and what a run says of itself."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torch import nn

from sigmoidcore.training.data import DataError
from sigmoidcore.training.runs.network import NetworkError
from sigmoidcore.training.runs.session import bad_input, failed, interrupted
from sigmoidcore.training.use.trained import TrainedRun, open_run, preprocessing_of
from sigmoidcore.training.user_code import blamed, users_code


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn what is wrong with runs and data into the end of a command.

    Raises:
        Stopped: with code 2 for bad input, 1 where a package is not installed.
    """
    try:
        yield
    except (DataError, NetworkError) as error:
        raise bad_input(str(error)) from error
    except ModuleNotFoundError as error:
        raise failed(str(error)) from error


@contextmanager
def nothing_left() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what is going on so that no part of a file is left.

    Raises:
        Stopped: one of them came, with code 130 or 143.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise interrupted("ended by SIGTERM; nothing was written", 128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if is_main else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise interrupted("interrupted; nothing was written") from error
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def opened(folder: Path, model: str | None) -> TrainedRun:
    """A run, with the network that `package.module:name` makes if the user has said so: his own code, which is run.

    Raises:
        Stopped: there is no run, or no such function, with code 2.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise bad_input(f"{folder} {what}: give the folder of a run, as `sigmoid-core runs` lists them")
    with in_one_line():
        if model is None:
            return open_run(folder)
        preprocessing = preprocessing_of(folder)
    with users_code(model) as make:
        if not callable(make):
            raise bad_input(f"{model} is no function: give one of (shape, outputs) that makes the model")
        with blamed(model):
            made = make(preprocessing.inputs.shape, preprocessing.target.outputs)
    if not isinstance(made, nn.Module):
        raise bad_input(f"{model} returned a {type(made).__name__}, no torch.nn.Module: let it return the model")
    return open_run(folder, made)
