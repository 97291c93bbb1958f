"""Frozen dataclasses as values for JSON, and back; their annotations define the format.

Annotations may be str, int, float, bool, a Literal or Enum of texts, a dataclass, `tuple[T, ...]`, and `T | None`.
"""

import math
import types
import typing
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from unstuck.language import english

DIGITS = 6
"""Significant digits of a number."""


def written(hint: Any, value: Any) -> Any:
    """A value of the type `hint` for JSON: nan and inf become texts, fields with their default are left out.

    Texts are English in every language.
    """
    if value is None:
        return None
    hint = _without_none(hint)
    if hint is float:
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(float(value))
    if typing.get_origin(hint) is tuple:
        return [written(typing.get_args(hint)[0], item) for item in value]
    if isinstance(hint, type) and is_dataclass(hint):
        members = [(field, inner, getattr(value, field.name)) for field, inner in _fields(hint)]
        return {
            field.name: written(inner, item)
            for field, inner, item in members
            if item != field.default and not (item != item and field.default != field.default)  # nan
        }
    value = value.value if isinstance(value, Enum) else value
    return english(value) if isinstance(value, str) else value


def read(hint: Any, value: Any) -> Any:
    """The value of the type `hint` from the result of `written`; a TypeError or ValueError from another's."""
    if value is None:
        return None
    hint = _without_none(hint)
    if hint is float:
        return float(value)
    if typing.get_origin(hint) is tuple:
        return tuple(read(typing.get_args(hint)[0], item) for item in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if isinstance(hint, type) and is_dataclass(hint):
        return hint(
            **{field.name: read(inner, value[field.name]) for field, inner in _fields(hint) if field.name in value}
        )
    return value


def _without_none(hint: Any) -> Any:
    if not isinstance(hint, types.UnionType):
        return hint
    (inner,) = set(typing.get_args(hint)) - {types.NoneType}
    return inner


@cache
def _fields(kind: Any) -> tuple[tuple[Field[Any], Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((field, hints[field.name]) for field in fields(kind))
