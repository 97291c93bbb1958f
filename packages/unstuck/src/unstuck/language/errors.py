"""Errors that a command reports in one line, without a traceback."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unstuck.language import _
from unstuck.language.terminal import printable


class InputError(ValueError):
    """A request that cannot be fulfilled. The message is one line: what is wrong, where, and what to do.

    It is a text in the user's language, with values for its placeholders.
    """

    def __init__(self, text: str, /, **values: object) -> None:
        super().__init__(_(text, **values))

    @classmethod
    @contextmanager
    def replacing(cls, text: str, *kinds: type[Exception], **values: object) -> Iterator[None]:
        """Context in which errors of these kinds become one of this class; the text may use {error}."""
        try:
            yield
        except InputError:
            raise
        except kinds as error:
            raise cls(text, error=getattr(error, "strerror", None) or short(error, 200), **values) from error


def short(text: object, most: int = 60) -> str:
    """Text as one printable line of at most `most` characters."""
    words = printable(" ".join(str(text).split()))
    return words if len(words) <= most else words[: most - 3] + "..."


def check_file(path: Path) -> None:
    """Refuse the name of a file that cannot be written."""
    if path.is_dir():
        raise InputError("{path} is a folder: give the name of a file", path=path)
    if path.exists() and not path.is_file():
        raise InputError("{path} is a device or a pipe, not a file: give another name", path=path)
    if not path.parent.is_dir():
        raise InputError(
            "cannot write {path}: there is no folder {parent}; make it, or give another name",
            path=path, parent=path.parent,
        )  # fmt: skip
    if not os.access(path.parent, os.W_OK):
        raise InputError("cannot write {path}: no permission to write in its folder; give another name", path=path)
