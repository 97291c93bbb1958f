"""One process per run folder: the library filelock, and a file that names the holder."""

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

NAME = "lock"


class InUseError(Exception):
    """Another process uses the folder."""


class Lock:
    """Holds a folder for this process until `release`; the system releases it if the process dies.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock, Timeout  # in the extra cli, which reading a run does not need

        self._path = folder / NAME
        if self._path.is_symlink():
            raise OSError(f"{self._path} is a link: a run's folder contains no links")
        holder = _holder(self._path)
        if holder.get("host", _host()) != _host():  # a network file system may not show the locks of other hosts
            raise InUseError(
                f"{folder} is in use by process {holder.get('pid')} on {holder['host']}: wait for it; if it is not "
                f"running any more, remove {self._path}"
            )
        self._lock = FileLock(self._path)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            if holder and not _holder(self._path):  # older versions of filelock empty the file
                self._path.write_text(json.dumps(holder) + "\n", encoding="utf-8")
            raise InUseError(
                f"{folder} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')}: wait for it, or "
                "stop it"
            ) from error
        try:
            self._path.write_text(json.dumps({"pid": os.getpid(), "host": _host()}) + "\n", encoding="utf-8")
        except OSError:  # a full disk
            self.release()
            raise

    def release(self) -> None:
        """Release the folder and remove the file."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._lock.release()


def is_locked(folder: Path) -> bool:
    """Whether the process that the lock file names seems to be running; only a `Lock` makes sure."""
    holder = _holder(folder / NAME)
    if holder.get("host", "") != _host():
        return bool(holder)
    try:
        os.kill(int(holder["pid"]), 0)
    except PermissionError:  # it is another user's
        return True
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return False
    return True


def _host() -> str:
    return socket.gethostname()


def _holder(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
