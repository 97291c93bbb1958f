"""Files that are written completely or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, or of its user, that has no more space."""


def write_file(path: Path, data: bytes) -> Path:
    """Write a file as `complete_file` does; returns `path`."""
    with complete_file(path) as file:
        file.write(data)
    return path


@contextmanager
def complete_file(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces the old one when the disk has all of it; after an error, the old one is still there.

    A link in its place is replaced, not followed. A device or a pipe stays: nothing could give it back.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(f"{path} is a device or a pipe, not a file: give another name")
    # Processes that write the same file, ranks for example, each have their own part.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:  # which the operating system does not name
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
