"""What trainings share: Ctrl-C that waits for the step, threads."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

import torch

FAILURES = (ArithmeticError, MemoryError, OSError, RuntimeError, ValueError)
"""Errors of a training that are reported in one line; any other is a bug and keeps its traceback."""


class CtrlC:
    """Takes the first Ctrl-C or SIGTERM as a request to stop after this step; the second stops at once.

    If `patient`, the second one is ignored too: launchers of several processes pass on signals that these have already
    received.
    """

    def __init__(self, patient: bool = False) -> None:
        self.asked = False  # whether a signal has arrived
        self.code = 130  # the exit code: 130 after Ctrl-C, 143 after SIGTERM
        self._patient = patient
        self._previous: dict[int, Any] = {}

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has arrived."""
        if self.asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        """Handle signals; not those that are ignored (nohup), and not outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self.code = True, 128 + number
        elif not self._patient:
            raise KeyboardInterrupt


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many threads; with small layers, two threads mostly wait for each other."""
    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Round denormal numbers to 0: some vanished gradients are denormal, and a CPU may be slow on them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
