"""Errors about data, one line with the cause and the remedy; and optional packages, imported at their first use."""

import contextlib
import difflib
import importlib
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from sigmoidcore.diagnosis.report.terminal import printable


class InputError(ValueError):
    """A request that cannot be fulfilled. The message is one line: what is wrong, where, and what to do."""


class DataError(InputError):
    """Data cannot be used."""


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant, or a list of the known names.

    Example:
        >>> nearest("prise", ["price", "size"])
        "did you mean 'price'?"
        >>> nearest("x", ["price", "size"])
        'the names are price, size'
    """
    lower = {str(known).lower(): str(known) for known in names}
    close = difflib.get_close_matches(name.lower(), list(lower)[:5000], n=1)
    return f"did you mean {lower[close[0]]!r}?" if close else f"the names are {listed(lower.values())}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names, and the number of the others.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    names = list(names)
    shown = ", ".join(short(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def short(text: object, most: int = 60) -> str:
    """Text as one printable line of at most `most` characters."""
    words = printable(" ".join(str(text).split()))
    return words if len(words) <= most else words[: most - 3] + "..."


def check_unique(source: object, names: Sequence[str]) -> None:
    """Refuse two columns of the same name."""
    places: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in places:
            raise DataError(
                f"{source} has two columns named {short(name)!r}, number {places[name]} and {place}: rename one of them"
            )
        places[name] = place


@contextlib.contextmanager
def file_errors(source: object) -> Iterator[None]:
    """Errors of the file system as a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        reason = error.strerror or short(error)
        raise DataError(f"{short(source, 200)} cannot be read: {reason}; give a readable file") from error


def needed(module: str, package: str, extra: str = "sigmoid-core[data]") -> ModuleType:
    """Import a module of an optional package.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{package} is not installed: pip install "{extra}"') from error


class Library:
    """A module of an optional package."""

    def __init__(self, module: str, package: str) -> None:
        self._names = module, package

    def __getattr__(self, name: str) -> Any:
        return getattr(needed(*self._names), name)


pa = Library("pyarrow", "pyarrow")
pc = Library("pyarrow.compute", "pyarrow")
