"""Errors about data, one line with the cause and the remedy; and optional packages, imported at their first use."""

import contextlib
import difflib
import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from sigmoidcore.language import _
from unstuck.language.errors import InputError, short


class DataError(InputError):
    """Data cannot be used."""


def meant(name: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant, or "" without a similar one."""
    lower = {str(known).lower(): str(known) for known in names}
    close = difflib.get_close_matches(name.lower(), list(lower)[:5000], n=1)
    return _("did you mean {name!r}?", name=lower[close[0]]) if close else ""


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant, or a list of the known names.

    Example:
        >>> nearest("prise", ["price", "size"])
        "did you mean 'price'?"
        >>> nearest("x", ["price", "size"])
        'the names are price, size'
    """
    known = [str(each) for each in names]
    return meant(name, known) or _("the names are {names}", names=listed(known))


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first names, and the number of the others."""
    names = list(names)
    shown = ", ".join(short(name) for name in names[:most])
    if len(names) <= most:
        return shown
    return _("{names} and {count:,} more", names=shown, count=len(names) - most)


def check_unique(source: object, names: Sequence[str]) -> None:
    """Refuse two columns of the same name."""
    places: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if places.setdefault(name, place) != place:
            raise DataError(
                "{source} has two columns named {name!r}, number {first} and {place}: rename one of them",
                source=source,
                name=short(name),
                first=places[name],
                place=place,
            )


def file_errors(source: object) -> contextlib.AbstractContextManager[None]:
    """Errors of the file system as a DataError."""
    return DataError.replacing("{source} cannot be read: {error}; give a readable file", OSError, source=short(source))


def needed(module: str, package: str, extra: str = "sigmoid-core[data]") -> ModuleType:
    """Import a module of an optional package, or raise a ModuleNotFoundError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            _('{package} is not installed: pip install "{extra}"', package=package, extra=extra)
        ) from error


class Library:
    """A module of an optional package."""

    def __init__(self, module: str, package: str) -> None:
        self._names = module, package

    def __getattr__(self, name: str) -> Any:
        value = getattr(needed(*self._names), name)
        setattr(self, name, value)  # thousands of columns ask for it
        return value


pa = Library("pyarrow", "pyarrow")
pc = Library("pyarrow.compute", "pyarrow")
