"""One process on a run's folder: a second one is refused, and what a killed one left behind is recognised."""

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sigmoidcore._files import open_no_link

if sys.platform != "win32":
    import fcntl

NAME = "lock"


class InUseError(Exception):
    """Another process works on the folder."""


class Lock:
    """Holds a folder for this process until it is released, or the process ends.

    The file `lock` names process and host. The system itself lets the lock go when its process dies, however it dies,
    so one that a killed process left is simply taken over. A lock that another host holds cannot be seen through every
    network file system: where the file names another host, it is believed.

    Args:
        folder: that is there.

    Raises:
        InUseError: another process has it; the message names it and the remedy.
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._descriptor = self._acquire()
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode() + b"\n")
        except OSError:  # a full disk
            self.release()
            raise

    def release(self) -> None:
        """Let it go, and remove the file."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go."""
        self.release()

    def _acquire(self) -> int:
        while True:
            descriptor = open_no_link(self._path, os.O_RDWR | os.O_CREAT)
            try:
                _take(descriptor)
                holder = _holder(descriptor)
                host = holder.get("host", "")
                if host and host != socket.gethostname():
                    raise InUseError(
                        f"{self._path.parent} is in use by process {holder.get('pid')} on {host}: wait for it; if it "
                        f"is not running any more, remove {self._path}"
                    )
                if _is_still(descriptor, self._path):
                    return descriptor
            except BlockingIOError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise InUseError(
                    f"{self._path.parent} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')}: "
                    "wait for it, or stop it"
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder has just removed it: make a new one


def is_held(folder: Path) -> bool:
    """Whether a process seems to work on a folder; for people to read: only a `Lock` makes sure.

    It looks at the process that `lock` names and does not try the lock, which could get in the way of its holder.

    Args:
        folder: of a run.
    """
    try:
        descriptor = open_no_link(folder / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        holder = _holder(descriptor)
    finally:
        os.close(descriptor)
    if holder.get("host") != socket.gethostname() or sys.platform == "win32":
        return True
    try:
        os.kill(int(holder["pid"]), 0)
    except (KeyError, TypeError, ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _take(descriptor: int) -> None:
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one of this name, and has not been removed since."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
