"""Errors that a command reports in one line, without a traceback."""

import os
from pathlib import Path

from sigmoidcore._language import _


class InputError(ValueError):
    """A request that cannot be fulfilled. The message is one line: what is wrong, where, and what to do."""


class Stopped(Exception):
    """A training ends with a message for the user, on standard error, and an exit code.

    Attributes:
        code: the exit code: 1 for a failure, 130 after Ctrl-C, 143 after SIGTERM.
        local: of several processes, whether only this one knows the message.
    """

    def __init__(self, message: str, code: int = 1, local: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.local = local


class LostError(RuntimeError):
    """Another process of the training has ended; the message is one line."""


def check_file(path: Path) -> None:
    """Refuse the name of a file that cannot be written.

    Raises:
        InputError: it is a folder, its folder does not exist, or nobody may write there.

    Example:
        >>> check_file(Path("."))
        Traceback (most recent call last):
        ...
        sigmoidcore._language.errors.InputError: . is a folder: give the name of a file
    """
    if path.is_dir():
        raise InputError(_("{path} is a folder: give the name of a file", path=path))
    if not path.parent.is_dir():
        raise InputError(
            _(
                "cannot write {path}: there is no folder {parent}; make it, or give another name",
                path=path,
                parent=path.parent,
            )
        )
    if not os.access(path.parent, os.W_OK):
        raise InputError(_("cannot write {path}: no permission to write in its folder; give another name", path=path))
