"""Frozen dataclasses as values for JSON, and back; their annotations define the format.

Annotations may be str, int, float, bool, a Literal or Enum of texts, a dataclass, `tuple[T, ...]`, and `T | None`.
"""

import json
import math
import types
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

DIGITS = 6
"""Significant digits of a number."""
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
SIMPLE = {str: "text", bool: "true or false"}


class WrongValueError(ValueError):
    """A wrong value, and its place."""


def written(hint: Any, value: Any) -> Any:
    """A value of the type `hint` for JSON: nan and inf become texts, fields with their default are left out."""
    if value is None:
        return None
    hint, _ = _optional(hint)
    if hint is float:
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(float(value))
    if typing.get_origin(hint) is tuple:
        return [written(typing.get_args(hint)[0], item) for item in value]
    if isinstance(hint, type) and is_dataclass(hint):
        members = [(field, inner, getattr(value, field.name)) for field, inner in _fields(hint)]
        return {f.name: written(inner, item) for f, inner, item in members if not _same(item, f.default)}
    return value.value if isinstance(value, Enum) else value


def read(hint: Any, value: Any, place: str) -> Any:
    """The value of the type `hint` from the result of `written`; unknown fields are left out.

    Args:
        hint: the type.
        value: the value from JSON.
        place: its place, for the error.

    Raises:
        WrongValueError: the value has another type, or a field without a default is missing.
    """
    hint, may_be_none = _optional(hint)
    if value is None and may_be_none:
        return None
    if hint is float:
        return _number(value, place)
    if hint is int:
        integer = type(value) is int or (type(value) is float and value.is_integer())
        return int(_require(integer, value, place, "a whole number"))
    if hint in SIMPLE:
        return _require(type(value) is hint, value, place, SIMPLE[hint])
    if typing.get_origin(hint) is tuple:
        items = _require(isinstance(value, list), value, place, "a list")
        return tuple(read(typing.get_args(hint)[0], item, f"{place}[{i}]") for i, item in enumerate(items))
    if isinstance(hint, type) and is_dataclass(hint):
        members, found = _require(isinstance(value, dict), value, place, "an object"), {}
        for field, inner in _fields(hint):
            if field.name in members:
                found[field.name] = read(inner, members[field.name], f"{place}.{field.name}")
            elif field.default is MISSING:
                raise WrongValueError(f"{place}.{field.name} is missing")
        return hint(**found)
    enum = isinstance(hint, type) and issubclass(hint, Enum)
    choices = {item.value: item for item in hint} if enum else {text: text for text in typing.get_args(hint)}
    known = isinstance(value, str) and value in choices
    return choices[_require(known, value, place, "one of " + ", ".join(choices))]


def _number(value: Any, place: str) -> float:
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    try:
        return float(_require(type(value) in (int, float), value, place, "a number"))
    except OverflowError:
        raise WrongValueError(f"{place} is {_shown(value)}, which is too large") from None


def _require(condition: bool, value: Any, place: str, what: str) -> Any:
    if not condition:
        raise WrongValueError(f"{place} is {_shown(value)}, but must be {what}")
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _optional(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether None is allowed."""
    if not isinstance(hint, types.UnionType):
        return hint, False
    (inner,) = set(typing.get_args(hint)) - {types.NoneType}
    return inner, True


@cache
def _fields(kind: Any) -> tuple[tuple[Field[Any], Any], ...]:
    """The fields of a dataclass with their types."""
    hints = typing.get_type_hints(kind)
    return tuple((field, hints[field.name]) for field in fields(kind))


def _same(value: Any, default: Any) -> bool:
    return bool(value == default or (value != value and default != default))
