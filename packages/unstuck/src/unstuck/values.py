"""Frozen dataclasses as values for JSON, and back; their annotations define the format.

Annotations may be str, int, float, bool, a Literal or Enum of texts, a dataclass, `tuple[T, ...]`, and `T | None`.
"""

import math
import types
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

DIGITS = 6
"""Significant digits of a number."""


def written(value: Any) -> Any:
    """A value for JSON: nan and inf become texts, fields with their default are left out."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(float(value))
    if isinstance(value, tuple):
        return [written(item) for item in value]
    if is_dataclass(value):
        members = ((field, written(getattr(value, field.name))) for field in fields(value))
        return {field.name: item for field, item in members if item != written(field.default)}
    return value


def read(hint: Any, value: Any) -> Any:
    """The value of the type `hint` from the result of `written`; a TypeError or ValueError from another's."""
    if value is None:
        return None
    if isinstance(hint, types.UnionType):
        (hint,) = set(typing.get_args(hint)) - {types.NoneType}
    if hint is float:
        return float(value)
    if typing.get_origin(hint) is tuple:
        return tuple(read(typing.get_args(hint)[0], item) for item in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if isinstance(hint, type) and is_dataclass(hint):
        return hint(**{name: read(inner, value[name]) for name, inner in _hints(hint).items() if name in value})
    return value


_hints = cache(typing.get_type_hints)
