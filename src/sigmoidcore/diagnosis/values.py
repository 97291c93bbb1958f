"""Frozen dataclasses as values that JSON can hold, and back: their annotations say what is allowed.

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


class WrongValueError(ValueError):
    """What is wrong, and where."""


def written(hint: Any, value: Any) -> Any:
    """A value of the type `hint` as JSON can hold it: nan and inf are texts, fields at their default are left out."""
    if value is None:
        return None
    hint, _ = _optional(hint)
    if hint is float:
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(float(value))
    if typing.get_origin(hint) is tuple:
        inner, _ = typing.get_args(hint)
        return [written(inner, item) for item in value]
    if isinstance(hint, type) and is_dataclass(hint):
        members = [(name, inner, field, getattr(value, name)) for name, inner, field in _fields(hint)]
        return {name: written(inner, item) for name, inner, field, item in members if not _same(item, field.default)}
    return value.value if isinstance(value, Enum) else value


def read(hint: Any, value: Any, place: str) -> Any:
    """The value of the type `hint` that `written` made `value` of; unknown fields are left out.

    Args:
        hint: the type.
        value: what JSON gave.
        place: where it stands, for the error.

    Raises:
        WrongValueError: it is of another type, or a field without a default is missing.
    """
    hint, may_be_none = _optional(hint)
    if value is None and may_be_none:
        return None
    if hint is float:
        return _number(value, place)
    if hint is int:
        whole = type(value) is int or (type(value) is float and value.is_integer())
        return int(_if(whole, value, place, "a whole number"))
    if hint in (str, bool):
        return _if(type(value) is hint, value, place, "text" if hint is str else "true or false")
    if typing.get_origin(hint) is tuple:
        inner, _ = typing.get_args(hint)
        items = _if(isinstance(value, list), value, place, "a list")
        return tuple(read(inner, item, f"{place}[{i}]") for i, item in enumerate(items))
    if isinstance(hint, type) and is_dataclass(hint):
        return _object(hint, _if(isinstance(value, dict), value, place, "an object"), place)
    enum = isinstance(hint, type) and issubclass(hint, Enum)
    choices = {item.value: item for item in hint} if enum else {text: text for text in typing.get_args(hint)}
    known = isinstance(value, str) and value in choices
    return choices[_if(known, value, place, "one of " + ", ".join(choices))]


def shown(value: Any) -> str:
    """A value as JSON has it, shortened; lists and objects by what they are."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _object(kind: Any, members: dict[str, Any], place: str) -> Any:
    given = {}
    for name, inner, field in _fields(kind):
        if name in members:
            given[name] = read(inner, members[name], f"{place}.{name}")
        elif field.default is MISSING:
            raise WrongValueError(f"{place}.{name} is missing")
    return kind(**given)


def _number(value: Any, place: str) -> float:
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    try:
        return float(_if(type(value) in (int, float), value, place, "a number"))
    except OverflowError:
        raise WrongValueError(f"{place} is {shown(value)}, which is too large") from None


def _if(right: bool, value: Any, place: str, what: str) -> Any:
    if not right:
        raise WrongValueError(f"{place} is {shown(value)}, but must be {what}")
    return value


def _optional(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether it may be None."""
    if not isinstance(hint, types.UnionType):
        return hint, False
    (inner,) = set(typing.get_args(hint)) - {types.NoneType}
    return inner, True


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any, Field[Any]], ...]:
    """Name, type and field of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    return tuple((field.name, hints[field.name], field) for field in fields(kind))


def _same(value: Any, default: Any) -> bool:
    return bool(value == default or (value != value and default != default))
