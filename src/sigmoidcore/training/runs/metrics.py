"""metrics.jsonl: one JSON object per line, appended while a run trains, and continued after the last checkpoint."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sigmoidcore._files import open_regular, write_file

FORMAT = 2
"""Version of a run's folder; it changes if an old reader would misread the new one."""

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class Metrics:
    """A metrics.jsonl that is open for appending.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened, or is a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            self._sum = hashlib.file_digest(file, "sha256")
        self._bytes = os.fstat(self._descriptor).st_size

    def log(self, kind: str, **values: Any) -> None:
        """Append a line. Numbers that are not finite become "inf", "-inf" or "nan"."""
        line = _line({"kind": kind, **values})
        if os.write(self._descriptor, line) != len(line):
            raise OSError(28, "No space left on device", str(self.path))
        self._sum.update(line)
        self._bytes += len(line)

    def mark(self) -> dict[str, Any]:
        """Length and checksum of the file, which is on the disk."""
        os.fsync(self._descriptor)
        return {"bytes": self._bytes, "sha256": self._sum.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def rewind(path: Path, mark: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Remove all lines after a mark; a damaged file is kept as metrics.damaged.jsonl and restored from rows.

    Args:
        path: of metrics.jsonl.
        mark: from `Metrics.mark`.
        rows: the rows that the checkpoint contains.

    Returns:
        A sentence about the damage, or None.

    Raises:
        OSError: the file cannot be read or written, or is a link.
    """
    length = int(mark["bytes"])
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    with os.fdopen(descriptor, "r+b") as file:
        if os.fstat(descriptor).st_size >= length and hashlib.sha256(file.read(length)).hexdigest() == mark["sha256"]:
            file.truncate(length)
            os.fsync(descriptor)
            return None
    aside = path.with_name("metrics.damaged.jsonl")
    path.replace(aside)
    write_file(path, b"".join(_line(row) for row in rows))
    return f"{path} is damaged and was moved to {aside}: epochs were restored from the checkpoint, samples are lost"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; a last line that a killed run left incomplete is ignored.

    Raises:
        ValueError: a line is not a JSON object, or the format is newer than this package.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is not a JSON object: {line[:60]!r}; was the file edited?")
        rows.append({key: value if key == "kind" else _from_json(value) for key, value in row.items()})
    if rows and rows[0].get("format", FORMAT) > FORMAT:
        raise ValueError(
            f"{path} has format {rows[0]['format']}, this package reads up to {FORMAT}: install a newer sigmoid-core"
        )
    return rows


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps({key: _as_json(value) for key, value in row.items()}, allow_nan=False).encode() + b"\n"


def _as_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    return [_from_json(item) for item in value] if isinstance(value, list) else value
