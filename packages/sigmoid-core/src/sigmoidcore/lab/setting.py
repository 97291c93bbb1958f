"""A set-up of the lab: data and two networks, within bounds; as plain values, and as the query of a URL."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlencode

from unstuck.language.errors import InputError, short

WITH_SLOPES = ("sigmoid", "sigmoid-core", "tanh")  # kinds with slopes, which an Equalizer and the visitor can change
DATA = ("moons", "spirals", "rings", "article", "digits")
RATES = {"sigmoid": 0.01, "sigmoid-core": 0.03, "tanh": 0.001, "relu": 0.001, "resnet": 0.001, "batchnorm": 0.001}
"""Kinds of network, see `networks.BUILDERS`, and their usual rate with Adam, which the page sets with the kind."""
LARGEST = 5_000_000  # of depth * width^2, so that networks, optimizers and a backward pass fit into a small machine
OWN = "own"  # name of the data that were named on the command line


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _choice(default: str, *names: str) -> Any:
    return field(default=default, metadata={"names": names})


@dataclass(frozen=True)
class Contender:
    """One of the two networks, and how it is trained."""

    kind: str = _choice("sigmoid", *RATES)
    saturation: float = _number(0.5, 0.05, 6.0)  # saturation level that a network of cores is prepared for
    rate: float = _number(0.01, 1e-6, 10.0)  # of a network of cores the total rate, see `depth_scaled_lr`
    optimizer: str = _choice("adam", "adam", "sgd")  # sgd has a momentum of 0.9
    equalizer: bool = False  # whether an Equalizer changes slopes during training


@dataclass(frozen=True)
class Setting:
    """A set-up; the defaults are what the page opens with."""

    data: str = _choice("moons", *DATA, OWN)  # name of a data set; see `datasets`
    depth: int = _number(30, 1, 1000)  # hidden layers
    width: int = _number(16, 2, 256)  # neurons of each
    batch: int = _number(64, 4, 256)  # samples of a step
    seed: int = _number(0, 0, 9999)  # of the weights, the data and the order of samples
    a: Contender = field(default_factory=Contender)  # the second one has the same data, seed and batches
    b: Contender = field(default_factory=lambda: Contender("sigmoid-core", rate=0.03, equalizer=True))


def flat(setting: Setting) -> dict[str, Any]:
    """The values by their names: `depth`, and `a.rate` for one of the first network."""
    found: dict[str, Any] = {}
    for name, value in vars(setting).items():
        own = isinstance(value, Contender)
        found |= {f"{name}.{key}": part for key, part in vars(value).items()} if own else {name: value}
    return found


def query(setting: Setting) -> str:
    """The values that differ from the defaults, as the query of a URL."""
    usual = flat(Setting())
    changed = {key: value for key, value in flat(setting).items() if value != usual[key]}
    return urlencode({key: f"{v:g}" if isinstance(v, float) else str(v).lower() for key, v in changed.items()})


def parse(values: Mapping[str, Any]) -> Setting:
    """The set-up with these values, by the names of `flat`, as text or as JSON values; the others are the defaults."""
    found = flat(Setting())
    for name, value in values.items():
        if name not in found:
            names = ", ".join(found)
            raise InputError("there is no option {name!r}: the names are {names}", name=short(name), names=names)
        found[name] = _value(name, value, found[name])
    own = [{key[2:]: value for key, value in found.items() if key.startswith(f"{which}.")} for which in "ab"]
    shared = {key: value for key, value in found.items() if "." not in key}
    setting = Setting(**shared, a=Contender(**own[0]), b=Contender(**own[1]))
    if setting.depth * setting.width**2 > LARGEST:
        widest = math.isqrt(LARGEST // setting.depth)
        raise InputError(
            "{depth} layers of {width} neurons are too many: make it at most {widest} neurons, or fewer layers",
            depth=setting.depth, width=setting.width, widest=widest,
        )  # fmt: skip
    return setting


def schema() -> dict[str, dict[str, Any]]:
    """Every option with its default and its choices or bounds, from which the page makes its controls."""
    options = {option.name: option for option in fields(Setting)}
    options |= {f"{which}.{option.name}": option for which in "ab" for option in fields(Contender)}
    return {
        name: {"default": default, **options[name].metadata, "whole": isinstance(default, int)}
        for name, default in flat(Setting()).items()
    }


def _value(name: str, value: Any, default: Any) -> Any:
    """A value of an option, of the type of its default and within its bounds."""
    bounds = schema()[name]
    if isinstance(default, bool):
        if str(value).lower() not in ("true", "false"):
            raise InputError("{name} is {text!r}: give true or false", name=name, text=short(value))
        return str(value).lower() == "true"
    if isinstance(default, str):
        if value not in bounds["names"]:
            names = ", ".join(bounds["names"])
            raise InputError("{name} is {text!r}: choose one of {names}", name=name, text=short(value), names=names)
        return value
    return number(name, value, bounds["low"], bounds["high"], whole=isinstance(default, int))


def number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> float:
    """A number of a message or of an address, as a number or as text; an InputError if it is out of bounds."""
    try:
        found = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not low <= found <= high or (whole and found != int(found)):
        place = {"name": name, "text": short(value), "low": low, "high": high}
        if whole:
            raise InputError("{name} is {text!r}: give a whole number from {low:g} to {high:g}", **place)
        raise InputError("{name} is {text!r}: give a number from {low:g} to {high:g}", **place)
    return int(found) if whole else found
