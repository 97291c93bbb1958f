"""Compiled code runs uncompiled for a while: `torch.compile` does not notice hooks that come and go."""

import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")
_MESSAGE = re.compile(r"Using `torch\.compile\(module\)` when there are global hooks on modules")
_NO_WARNING = ("ignore", _MESSAGE, UserWarning, None, 0)
"""Hides a warning that compiled modules give at every call: users can do nothing about our hooks.

It is put in by hand, for `warnings.filterwarnings` would show again what has been shown once.
"""


class Eager:
    """Counts who needs compiled code to run uncompiled, and gives the compiler its stance back when nobody does.

    The stance is PyTorch's own and holds for the process: what is compiled stays in its cache, and is not compiled
    again.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # whoever holds it may be collected, and so release, while another holds
        self._holders = 0
        self._stance: Any = None

    def hold(self) -> None:
        """Run everything uncompiled from here on.

        Where the compiler has not been imported nothing is compiled, and its import would take seconds.
        """
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                warnings.filters.insert(0, _NO_WARNING)  # type: ignore[attr-defined]
            if self._stance is None and "torch._dynamo" in sys.modules:
                self._stance = torch.compiler.set_stance("force_eager")

    def release(self) -> None:
        """Take one `hold` back."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                with suppress(ValueError):  # the user has cleared the filters
                    warnings.filters.remove(_NO_WARNING)  # type: ignore[attr-defined]
                if self._stance is not None:
                    self._stance.__exit__(None, None, None)
                    self._stance = None


_EAGER = Eager()
hold, release = _EAGER.hold, _EAGER.release


@contextmanager
def eager() -> Iterator[None]:
    """Compiled code runs uncompiled inside, so that hooks run."""
    hold()
    try:
        yield
    finally:
        release()


def uncompiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, which compiled code calls and does not compile."""
    disable: Callable[[Callable[_P, _R]], Callable[_P, _R]] = torch.compiler.disable
    return disable(function)
