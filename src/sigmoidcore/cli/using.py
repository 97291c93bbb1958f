"""What the commands that use a run share: errors in one line, and what a run says of itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from sigmoidcore.cli.code import blamed, users_code
from sigmoidcore.cli.session import bad_input, failed
from sigmoidcore.training.data import DataError
from sigmoidcore.training.network import NetworkError
from sigmoidcore.training.trained import TrainedRun, open_run, preprocessing_of


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
        preprocessing, _ = preprocessing_of(folder)
    with users_code(model) as make:
        if not callable(make):
            raise bad_input(f"{model} is no function: give one of (shape, outputs) that makes the model")
        with blamed(model):
            made = make(preprocessing.inputs.shape, preprocessing.target.outputs)
    if not isinstance(made, nn.Module):
        raise bad_input(f"{model} returned a {type(made).__name__}, no torch.nn.Module: let it return the model")
    return open_run(folder, made)
