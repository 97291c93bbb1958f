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
SIMPLE = {str: "text", bool: "true or false", int: "a whole number"}


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
        return {
            field.name: written(inner, item)
            for field, inner, item in members
            if item != field.default and not (item != item and field.default != field.default)  # nan
        }
    return value.value if isinstance(value, Enum) else value


def read(hint: Any, value: Any, place: str) -> Any:
    """The value of the type `hint` from the result of `written`; unknown fields are left out.

    A WrongValueError names the `place` of a value with another type, or of a missing field without a default.
    """
    hint, may_be_none = _optional(hint)
    if value is None and may_be_none:
        return None
    if hint is float:
        number: Any = NOT_FINITE.get(value, value) if isinstance(value, str) else value
        _require(type(number) in (int, float), value, place, "a number")
        _require(type(number) is float or abs(number) < 2**1023, value, place, "a smaller number")
        return float(number)
    if hint in SIMPLE:
        return _require(type(value) is hint, value, place, SIMPLE[hint])
    if typing.get_origin(hint) is tuple:
        _require(isinstance(value, list), value, place, "a list")
        return tuple(read(typing.get_args(hint)[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, type) and is_dataclass(hint):
        _require(isinstance(value, dict), value, place, "an object")
        known = {field.name: inner for field, inner in _fields(hint) if field.name in value}
        for field, _ in _fields(hint):
            if field.default is MISSING and field.name not in value:
                raise WrongValueError(f"{place}.{field.name} is missing")
        return hint(**{name: read(inner, value[name], f"{place}.{name}") for name, inner in known.items()})
    enum = isinstance(hint, type) and issubclass(hint, Enum)
    choices = {item.value: item for item in hint} if enum else {text: text for text in typing.get_args(hint)}
    _require(isinstance(value, str) and value in choices, value, place, "one of " + ", ".join(choices))
    return choices[value]


def _require(condition: bool, value: Any, place: str, what: str) -> Any:
    if condition:
        return value
    text = json.dumps(value)
    if isinstance(value, list | dict):
        text = "a list" if isinstance(value, list) else "an object"
    raise WrongValueError(f"{place} is {text if len(text) <= 40 else f'{text[:37]}...'}, but must be {what}")


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
