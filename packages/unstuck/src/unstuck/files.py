"""Files that are written completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, if the system can tell."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path | str, flags: int) -> int:
    """Open a regular file as `os.open` does, not through a link; an opener for `open`."""
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is not a regular file: a run's folder contains no links")
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def read_regular(path: Path, limit: int = -1) -> bytes:
    """Content of a regular file, at most `limit` bytes of it; errors are those of `open_regular`."""
    with open(path, "rb", opener=open_regular) as file:
        return file.read(limit)
