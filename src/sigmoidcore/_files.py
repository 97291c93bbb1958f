"""Files that are written whole or not at all, and what is closed by `with`."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class Closing(ABC):
    """What writes to a file, and is closed by `with`."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def write_whole(path: Path, data: bytes) -> Path:
    """Write all or nothing: a reader finds the old file or the new one, never half of it.

    A link in the file's place is replaced, not followed. When it returns, the file is on the disk.

    Args:
        path: of the file; its folder must exist.
        data: what will be in it.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    with whole(path) as file:
        file.write(data)
    return path


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes its place when all of it is on the disk; after an error nothing of it is left.

    Args:
        path: of the file; its folder must exist. What is there stays until the end.

    Raises:
        OSError: the file cannot be written; what was there before is still there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with whole(path) as file:
        ...     _ = file.write(b"1 2 3")
        ...     before = path.exists()
        >>> before, path.read_text()
        (False, '1 2 3')
    """
    # Processes that write the same file, ranks for example, each have a part of their own.
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


def write_synced(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, and wait until the disk has it.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be written; a part of it may be left.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the system can tell."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_no_link(path: Path, flags: int) -> int:
    """Open a regular file by its own name: a link in its place is an error, so nobody is led out of the folder.

    Args:
        path: of the file.
        flags: as for `os.open`.

    Returns:
        A file descriptor.

    Raises:
        OSError: it cannot be opened, or it is a link, a folder or a device.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is no regular file: a run's folder holds no links")
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
