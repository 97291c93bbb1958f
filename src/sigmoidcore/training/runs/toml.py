"""TOML as a run's folder needs it: Python reads it by itself, and writes none."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST = 1 << 20
"""Bytes of a file that is read; a config has a few hundred."""


def written(values: Mapping[str, Any], comment: str = "") -> str:
    """Values as TOML: texts, numbers, truth values, lists of these, and tables of these at the top. None is left out.

    Args:
        values: by key.
        comment: lines before them.

    Example:
        >>> print(written({"format": 2, "options": {"lr": 0.03, "data": "digits"}}), end="")
        format = 2
        <BLANKLINE>
        [options]
        lr = 0.03
        data = "digits"
    """
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [f"{_key(k)} = {_value(v)}" for k, v in values.items() if v is not None and not isinstance(v, Mapping)]
    for key, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(key)}]"]
            lines += [f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None]
    return "\n".join(lines) + "\n"


def read(data: bytes, path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Args:
        data: what is in it.
        path: for messages.

    Raises:
        ValueError: it is no TOML; the message is one line.
    """
    if len(data) > LARGEST:
        raise ValueError(f"{path} has {len(data):,} bytes and is no config")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError, OverflowError) as error:
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        raise ValueError(f"{path} is no TOML: {reason}") from error


def _key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    # The escapes of JSON are those of TOML, but for one control character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
