"""Silences a warning about our hooks.

A module that `torch.compile` has wrapped warns, at every call, about global hooks on modules: they are called once more
for the wrapper. The probe's hooks know this, and a user can do nothing about it.
"""

import threading
import warnings
from typing import Any

_MESSAGE = r"Using `torch\.compile\(module\)` when there are global hooks on modules"
_lock = threading.RLock()
_filters: list[Any] = []
"""One for each holder: the filter that the first of them added."""


def hold() -> None:
    """Ignore the warning from here on."""
    with _lock:
        if not _filters:
            warnings.filterwarnings("ignore", message=_MESSAGE, category=UserWarning)
        _filters.append(_filters[0] if _filters else warnings.filters[0])


def release() -> None:
    """Take one `hold` back; the last one removes the filter."""
    with _lock:
        last = _filters.pop()
        if not _filters and last in warnings.filters:
            warnings.filters.remove(last)  # type: ignore[attr-defined]
