"""What the commands that use a run share: errors in one line, and what a run says of itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sigmoidcore.cli.session import bad_input, failed
from sigmoidcore.training.data import DataError
from sigmoidcore.training.network import NetworkError


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


def check_run(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        Stopped: it is none, with code 2.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise bad_input(f"{folder} {what}: give the folder of a run, as `sigmoid-core runs` lists them")
