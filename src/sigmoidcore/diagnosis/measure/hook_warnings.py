"""No warning of PyTorch's about hooks that are ours.

A module that `torch.compile` has wrapped warns, at every call, if there are global hooks on modules: they are called
once more, for the wrapper. The probe's hooks know it, and a user can do nothing about it.
"""

import threading
import warnings
from typing import Any

_MESSAGE = r"Using `torch\.compile\(module\)` when there are global hooks on modules"


class Quiet:
    """Counts who needs silence, and takes the filter away when nobody does."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders = 0
        self._filter: Any = None

    def hold(self) -> None:
        """Ignore the warning from here on."""
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                warnings.filterwarnings("ignore", message=_MESSAGE, category=UserWarning)
                self._filter = warnings.filters[0]

    def release(self) -> None:
        """Take one `hold` back."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._filter in warnings.filters:
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]


_QUIET = Quiet()
hold, release = _QUIET.hold, _QUIET.release
