"""What the page may ask for: messages of JSON, each checked before anything is done."""

import json
from collections.abc import Callable
from typing import Any

from sigmoidcore.lab.session import MOST_STEPS, Session
from sigmoidcore.lab.setting import parse
from sigmoidcore.training.data import InputError, listed, short

LONGEST = 16_384
"""Characters of a message."""
SMALLEST_SLOPE, LARGEST_SLOPE = 1e-3, 1e3


def obey(session: Session, text: str) -> dict[str, Any] | None:
    """Do what a message asks for; returns the answer, if there is one at once.

    Example:
        >>> obey(Session(print), '{"do": "dance"}')
        Traceback (most recent call last):
            ...
        sigmoidcore._language.errors.InputError: do is 'dance': the names are arrange, start, pause, step, ...
    """
    if len(text) > LONGEST:
        raise InputError("the message has {count:,} characters: send at most {most:,}", count=len(text), most=LONGEST)
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("the message is not JSON: {error}", error=short(error)) from error
    if not isinstance(message, dict):
        raise InputError('the message is {text}: send an object such as {{"do": "start"}}', text=short(message))
    name = message.get("do")
    if not isinstance(name, str) or name not in ACTIONS:
        raise InputError("do is {text!r}: the names are {names}", text=short(name), names=listed(ACTIONS, 20))
    return ACTIONS[name](session, message)


def _arrange(session: Session, message: dict[str, Any]) -> None:
    setting = message.get("setting")
    if not isinstance(setting, dict):
        raise InputError("setting is {text}: send an object of options", text=short(setting))
    session.arrange(parse(setting))


def _set_slope(session: Session, message: dict[str, Any]) -> None:
    layer = int(_number(message, "layer", 0, 1000))
    session.set_slope(_which(message), layer, _number(message, "value", SMALLEST_SLOPE, LARGEST_SLOPE))


def _look(session: Session, message: dict[str, Any]) -> None:
    neuron = None if message.get("neuron") is None else int(_number(message, "neuron", 0, 1000))
    session.look(int(_number(message, "layer", 0, 1000)), neuron)


def _code(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    which = _which(message)
    return {"kind": "code", "network": which, "text": session.code(which)}


ACTIONS: dict[str, Callable[[Session, dict[str, Any]], dict[str, Any] | None]] = {
    "arrange": _arrange,
    "start": lambda session, message: session.run(True),
    "pause": lambda session, message: session.run(False),
    "step": lambda session, message: session.advance(int(_number(message, "count", 1, MOST_STEPS, 1))),
    "reset": lambda session, message: session.reset(),
    "slope": _set_slope,
    "look": _look,
    "report": lambda session, message: session.report(_which(message)),
    "code": _code,
}


def _which(message: dict[str, Any]) -> int:
    return int(_number(message, "network", 0, 1))


def _number(message: dict[str, Any], name: str, low: float, high: float, default: float | None = None) -> float:
    value = message.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        limits = {"low": low, "high": high}
        raise InputError(
            "{name} is {text!r}: send a number from {low:g} to {high:g}", name=name, text=short(value), **limits
        )
    return float(value)
