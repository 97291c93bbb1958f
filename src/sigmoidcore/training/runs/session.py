"""What trainings and commands share: errors in one line, signals that keep what is there, a folder for the run."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from sigmoidcore.training.processes import LostError, launched
from sigmoidcore.training.runs.folder import Run, holds_run
from sigmoidcore.training.runs.lock import InUseError


class Stopped(Exception):
    """A command ends with a message for the user, on standard error, and an exit code.

    Attributes:
        code: the exit code.
        own: of several processes, whether only this one knows of it, and has to say it though it is not the first.
    """

    def __init__(self, message: str, code: int, own: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.own = own


def bad_input(message: str) -> Stopped:
    """What was asked for cannot be done: exit code 2."""
    return Stopped(message, 2)


def failed(message: str) -> Stopped:
    """It was tried and went wrong: exit code 1."""
    return Stopped(message, 1)


def interrupted(message: str, code: int = 130) -> Stopped:
    """Ctrl-C, exit code 130, or another signal, 128 and its number."""
    return Stopped(message, code)


FAILURES = (ArithmeticError, MemoryError, OSError, RuntimeError, ValueError)
"""What may go wrong in a run that nobody's mistake in the code explains."""


def explain(error: Exception, run: Run) -> Stopped:
    """The end of a run that failed; what it has is written by now.

    Raises:
        BrokenPipeError: the reader of the output has gone, and there is nobody to explain it to.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    reason = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in reason or "out of memory" in reason:
        reason = "not enough memory: lower the width, the depth or the batch size"
    if isinstance(error, LostError):
        return failed(
            f"{reason}; the last checkpoint is kept; to go on, with any number of processes: sigmoid-core train "
            f"--resume {run.folder}"
        )
    return failed(f"{reason}; what there was is in {run.folder}")


def of_follower(error: Exception) -> Stopped:
    """The end of a run that failed, on a process that is not the first: it says what the first one cannot know."""
    shared = isinstance(error, FloatingPointError | LostError)
    rank, count = launched()
    return Stopped(f"process {rank + 1} of {count}: {str(error) or type(error).__name__}", 1, own=not shared)


class CtrlC:
    """Takes the first Ctrl-C or SIGTERM as a wish to stop after this step, nothing half done; the second stops at once.

    Args:
        patient: the second one changes nothing, either: launchers of several processes pass on each signal that these
            have already had.

    Attributes:
        code: the exit code: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, patient: bool = False) -> None:
        self.code = 130
        self._patient = patient
        self._asked = False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether somebody wants it to stop."""
        return self._asked

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody wants it to stop."""
        if self._asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        """Begin to listen; not where Ctrl-C is ignored (nohup), nor outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:
            self._asked, self.code = True, 128 + number
        elif not self._patient:
            raise KeyboardInterrupt


def create_run(name: str, options: Mapping[str, Any], folder: Path | None, overwrite: bool | None = None) -> Run:
    """The run's folder; `overwrite` is None where a command has no such option.

    Raises:
        Stopped: it cannot be had, with code 2.
    """
    try:
        return Run.create(name, options, folder=folder, overwrite=bool(overwrite))
    except FileExistsError as error:
        assert folder is not None
        if not folder.is_dir():
            raise bad_input(f"{folder} is a file: give a folder as --output") from error
        if not holds_run(folder):
            raise bad_input(f"{folder} is not empty and holds no run: give another --output") from error
        remedy = "" if overwrite is None else ", or --overwrite to replace it"
        raise bad_input(f"{folder} holds a run already: give another --output{remedy}") from error
    except InUseError as error:
        raise bad_input(str(error)) from error
    except OSError as error:
        where = "runs, in this folder" if folder is None else folder
        raise bad_input(f"cannot write {where}: {error.strerror or error}; give another --output") from error


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads for a while.

    Two threads wait for each other after every layer; where layers are small, or another program wants a core as well,
    that takes longer than the layer.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take denormal numbers as 0 for a while: some vanished gradients are such, and a CPU may be slow on them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
