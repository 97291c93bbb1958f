"""metrics.jsonl: one JSON object per line, appended while a run trains, and continued after the last checkpoint."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unstuck.files import open_regular, read_regular, write_file
from sigmoidcore.language import _

FORMAT = 2
"""Version of a run's folder; it changes if an old reader would misread the new one."""

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def append(path: Path, kind: str, **values: Any) -> None:
    """Append a line. Numbers that are not finite become "inf", "-inf" or "nan"."""
    with open(path, "ab", opener=open_regular) as file:
        file.write(_line({"kind": kind, **values}))


def mark(path: Path) -> dict[str, Any]:
    """Length and checksum of the file, which is on the disk then."""
    with open(path, "rb", opener=open_regular) as file:
        os.fsync(file.fileno())
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def rewind(path: Path, mark: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Remove all lines after a mark; a sentence if the file was damaged: it is kept aside and restored from rows."""
    content = read_regular(path, int(mark["bytes"])) if path.exists() else b""
    if hashlib.sha256(content).hexdigest() == mark["sha256"]:
        os.truncate(path, len(content))
        return None
    aside = path.with_name("metrics.damaged.jsonl")
    if path.exists():
        path.replace(aside)
    write_file(path, b"".join(_line(row) for row in rows))
    return _(
        "{path} is damaged and was moved to {aside}: epochs were restored from the checkpoint, samples are lost",
        path=path,
        aside=aside,
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; a last line that a killed run left incomplete is ignored."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(
                _(
                    "{path}, line {number} is not a JSON object: {line!r}; was the file edited?",
                    path=path,
                    number=number,
                    line=line[:60],
                )
            )
        rows.append({key: value if key == "kind" else _from_json(value) for key, value in row.items()})
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
