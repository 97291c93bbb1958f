"""What the page may ask for: messages of JSON, each checked before anything is done."""

import json
from typing import Any

from sigmoidcore.lab.session import ACCIDENTS, MOST_STEPS, Session
from sigmoidcore.lab.setting import number, parse
from unstuck.language.errors import InputError, short

LONGEST = 16_384  # characters of a message
SMALLEST_SLOPE, LARGEST_SLOPE = 1e-3, 1e3
NAMES = "arrange, start, pause, step, reset, slope, accident, look, report, code"


def obey(session: Session, text: str) -> dict[str, Any] | None:
    """Do what a message asks for, or raise an InputError; returns the answer, if there is one at once."""
    if len(text) > LONGEST:
        raise InputError("the message has {count:,} characters: send at most {most:,}", count=len(text), most=LONGEST)
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("the message is not JSON: {error}", error=short(error)) from error
    if not isinstance(message, dict):
        raise InputError('the message is {text}: send an object such as {{"do": "start"}}', text=short(message))
    match message:
        case {"do": "arrange", "setting": dict(setting)}:
            session.arrange(parse(setting))
        case {"do": "arrange"}:
            raise InputError("setting is {text}: send an object of options", text=short(message.get("setting")))
        case {"do": "start" | "pause" as name}:
            session.run(name == "start")
        case {"do": "step"}:
            session.advance(_whole(message, "count", 1, MOST_STEPS, default=1))
        case {"do": "reset"}:
            session.reset()
        case {"do": "slope"}:
            value = number("value", message.get("value"), SMALLEST_SLOPE, LARGEST_SLOPE)
            session.set_slope(_whole(message, "network", 0, 1), _whole(message, "layer"), value)
        case {"do": "accident", "kind": str(kind)} if kind in ACCIDENTS:
            session.accident(kind)
        case {"do": "look"}:
            neuron = None if message.get("neuron") is None else _whole(message, "neuron")
            session.look(_whole(message, "layer"), neuron)
        case {"do": "report"}:
            session.report(_whole(message, "network", 0, 1))
        case {"do": "code"}:
            which = _whole(message, "network", 0, 1)
            return {"kind": "code", "network": which, "text": session.code(which)}
        case _:
            raise InputError("do is {text!r}: the names are {names}", text=short(message.get("do")), names=NAMES)
    return None


def _whole(message: dict[str, Any], name: str, low: int = 0, high: int = 1000, default: int | None = None) -> int:
    return int(number(name, message.get(name, default), low, high, whole=True))
