"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> Path:
    """Write all or nothing: a reader finds the old file or the new one, never half of it.

    Args:
        path: of the file; its folder must exist.
        data: what will be in it.

    Returns:
        `path`.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    # Processes that write the same file, ranks for example, each have a part of their own.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
