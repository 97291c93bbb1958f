"""One process per run folder, by the library filelock: the system releases the lock if the process dies."""

from pathlib import Path

from sigmoidcore.training.data import InputError
from sigmoidcore.language import _

NAME = "lock"


class Lock:
    """Holds a folder for this process until `release`; InputError if another process does."""

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock, Timeout  # in the extra cli, which reading a run does not need

        self._path = folder / NAME
        if self._path.is_symlink():
            raise OSError(_("{path} is a link: a run's folder contains no links", path=self._path))
        self._lock = FileLock(self._path)
        with InputError.replacing(
            "{folder} is in use by another process: wait for it, or stop it", Timeout, folder=folder
        ):
            self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Release the folder and remove the file."""
        if self._lock.is_locked:
            self._path.unlink(missing_ok=True)
            self._lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process uses the folder, or may use it."""
    from filelock import FileLock, Timeout

    path = folder / NAME
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with FileLock(path).acquire(blocking=False):
            return False
    except (Timeout, OSError):  # it may be another user's
        return True
