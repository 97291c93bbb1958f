"""What is said when data cannot be used: in one line, with the cause and the remedy."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class DataError(ValueError):
    """Data that cannot be used. The message is one line: what is wrong, where, and what to do."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Words that point to the name that was probably meant, or to some of those that there are.

    Example:
        >>> nearest("prise", ["price", "size"])
        "did you mean 'price'?"
        >>> nearest("x", ["price", "size"])
        'there are: price, size'
    """
    names = [str(known) for known in names]
    lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(lower)[:5000], n=1)
    if close:
        return f"did you mean {lower[close[0]]!r}?"
    return f"there are: {listed(names)}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """Some names in a row, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    names = list(names)
    shown = ", ".join(short(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def short(text: object, most: int = 60) -> str:
    """Text in one line, cut where it is long; what is no printable character is written as an escape."""
    words = " ".join(str(text).split())
    words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return words if len(words) <= most else words[: most - 3] + "..."


def needed(module: str, package: str, extra: str = "sigmoid-core[data]") -> ModuleType:
    """A module of another package, imported when it is used.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{package} is not installed: pip install "{extra}"') from error
