"""What a training may be told: the options of `sigmoid-core train` and `fit`, their defaults, and what they may be."""

import contextlib
import difflib
import math
import numbers
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from sigmoidcore.training.data import BUILT_IN

MOST = 2**31 - 1
"""No number of steps, samples or neurons is larger."""


_HELP = " (see sigmoid-core train --help)"


class OptionError(ValueError):
    """An option that is not there, or a value that it cannot have; the message is one line."""


@dataclass(frozen=True)
class Option:
    """What an option may be.

    Attributes:
        kind: of its values; list: of texts.
        default: what it is if nothing was said; None: it is found out.
        least: of a whole number.
        most: of a whole number.
        choices: what a text may be; none: anything.
        check: what is wrong with a value of this kind; "": nothing.
    """

    kind: type
    default: Any = None
    least: int = 1
    most: int = MOST
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str] = lambda value: ""


def _share(value: float) -> str:
    return "" if 0 < value < 1 else f"{value} is not above 0 and below 1; 0.2 is the usual choice."


def _rate(value: float) -> str:
    return "" if 0 < value < math.inf else f"{value} is not a positive number; 0.03 is the usual choice."


def _level(value: float) -> str:
    usual = "0.5 is the usual choice, 3 is a lot."
    return "" if 0 < value <= 100 else f"{value} is not above 0 and at most 100; {usual}"


def _at_least_0(value: float) -> str:
    return "" if 0 <= value < math.inf else f"{value} is not a number of at least 0."


def _above_0(value: float) -> str:
    return "" if 0 < value < math.inf else f"{value} is not a positive number; 1 is a usual choice."


def _steps_or(word: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value == word or (value.isascii() and value.isdigit() and 0 < int(value[:12]) <= MOST):
            return ""
        return f"{value[:40]!r} is neither {word!r} nor a number of steps of at least 1."

    return check


OPTIONS: Mapping[str, Option] = {
    "data": Option(str, "digits"),
    "target": Option(list),
    "drop": Option(list),
    "kind": Option(str, choices=("class", "number")),
    "test_size": Option(float, check=_share),
    "network": Option(str, "mlp", choices=("mlp", "conv", "rnn", "auto")),
    "model": Option(str),
    "depth": Option(int),
    "width": Option(int, 64),
    "epochs": Option(int, 10),
    "batch_size": Option(int, 100),
    "lr": Option(float, 0.03, check=_rate),
    "seed": Option(int, 0, least=0, most=2**63 - 1),
    "saturation": Option(float, 0.5, check=_level),
    "prepare": Option(bool),
    "equalize": Option(bool, True),
    "every": Option(str, "auto", check=_steps_or("auto")),
    "weight_decay": Option(float, 0.0, check=_at_least_0),
    "schedule": Option(str, "linear", choices=("linear", "cosine")),
    "warm_up": Option(int, 0, least=0),
    "clip": Option(float, check=_above_0),
    "accumulate": Option(int, 1),
    "patience": Option(int),
    "class_weights": Option(bool, False),
    "device": Option(str, "auto", choices=("auto", "cpu", "cuda", "mps")),
    "precision": Option(str, "no", choices=("no", "bf16", "fp16")),
    "tensorboard": Option(bool, False),
    "threads": Option(int, 1, most=1024),
    "save_every": Option(str, "epoch", check=_steps_or("epoch")),
}
"""All that decides a run, in the order in which its config has it."""


def where_it_is(data: str) -> str:
    """A built-in set's name, or the whole path of what is there: a run goes on from any folder."""
    return os.path.abspath(data) if data not in BUILT_IN and os.path.exists(data) else data


def options_from(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a run, from those that are given.

    Args:
        given: by name; None counts as not given. Numbers may be texts, and a list one text.

    Raises:
        OptionError: there is no such option, or it cannot have this value.

    Example:
        >>> options = options_from({"depth": 3, "lr": "0.1"})
        >>> options["depth"], options["lr"], options["width"]
        (3, 0.1, 64)
    """
    for name in given:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = f"; did you mean {typed(near[0])}?" if near else ""
            raise OptionError(f"No such option: {typed(name)}{hint}{_HELP}")
    found = {
        name: _value(name, given[name]) if given.get(name) is not None else option.default
        for name, option in OPTIONS.items()
    }
    return found | {"data": where_it_is(found["data"])}


def typed(name: str) -> str:
    """An option as it is typed.

    Example:
        >>> typed("batch_size")
        '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def _value(name: str, value: Any) -> Any:
    """The value of an option, as its kind wants it."""
    option = OPTIONS[name]
    value = value.value if isinstance(value, Enum) else value
    try:
        found = _KINDS[option.kind](value)
        wrong = _wrong(option, found)
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise OptionError(f"Invalid value for '{typed(name)}': {wrong}{_HELP}")
    return found


def _whole(value: Any) -> int:
    if not isinstance(value, bool) and isinstance(value, str | numbers.Integral):
        with contextlib.suppress(ValueError):
            return int(value)
    raise ValueError(f"{value!r} is not a whole number.")


def _real(value: Any) -> float:
    if not isinstance(value, bool) and isinstance(value, str | numbers.Real):
        with contextlib.suppress(ValueError):
            return float(value)
    raise ValueError(f"{value!r} is not a number.")


def _truth(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{value!r} is neither True nor False.")


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


_KINDS: Mapping[type, Callable[[Any], Any]] = {int: _whole, float: _real, bool: _truth, list: _texts, str: str}


def _wrong(option: Option, value: Any) -> str:
    if option.kind is int and not option.least <= value <= option.most:
        return f"{value} is not from {option.least} to {option.most}."
    if option.choices and value not in option.choices:
        return f"{value!r} is not one of {', '.join(map(repr, option.choices))}."
    return option.check(value)
