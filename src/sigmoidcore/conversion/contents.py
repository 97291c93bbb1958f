"""What is in the lists, dicts and objects of a model: to undo what a forward does to them, and to see a change."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, complex, str, bytes, range, slice, torch.device)
"""Of these, another one that is equal is as good."""
_DEEP, _MANY = 6, 1000
"""How deep, and into collections of how many entries, it is looked for what a forward may change."""

_TOOLS = (sys.stdlib_module_names - {"types", "argparse", "collections"}) | {"torch", "numpy"}
"""Modules whose objects (functions, locks, loggers, weak references) are not data of a model."""

# --- to see a change -----------------------------------------------------------------------------------------------


def contents(value: Any) -> tuple[tuple[str, Any], ...]:
    """All that is in a value, with the way to it in Python's notation; for a value that holds nothing, that itself.

    Example:
        >>> contents([1.0, {"k": 2}])
        (('', <class 'list'>), ('[0]', 1.0), ('[1]', <class 'dict'>), ("[1]['k']", 2))
        >>> contents(3)
        (('', 3),)
    """
    if isinstance(value, PLAIN) or value is None:
        return (("", value),)
    found: list[tuple[str, Any]] = []
    _collect(value, "", found, ())
    return tuple(found)


def difference(now: Sequence[tuple[str, Any]], then: Sequence[tuple[str, Any]]) -> tuple[str, Any, Any] | None:
    """Where two contents differ first, what is there now, and what was; None if they are the same."""
    for (where, one), (place, other) in zip(now, then, strict=False):
        if where != place:
            return place, _NOTHING, other
        if one is not other and not (type(one) is type(other) and isinstance(one, PLAIN) and one == other):
            return place, one, other
    if len(now) > len(then):
        return now[len(then)][0], now[len(then)][1], _NOTHING
    if len(now) < len(then):
        return then[len(now)][0], _NOTHING, then[len(now)][1]
    return None


class _Nothing:
    """What is not there."""

    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


def _collect(value: Any, path: str, found: list[tuple[str, Any]], above: tuple[int, ...]) -> None:
    entries: list[tuple[str, Any]] = []
    if isinstance(value, PLAIN) or value is None or id(value) in above:
        found.append((path, value))
        return
    if isinstance(value, Mapping):
        entries = [(f"[{key!r}]", entry) for key, entry in value.items()]
    elif isinstance(value, Sequence | Set):
        entries = [(f"[{i}]", entry) for i, entry in enumerate(value)]
    elif isinstance(value, SimpleNamespace):
        entries = [(f".{key}", entry) for key, entry in vars(value).items()]
    elif is_dataclass(value) and not hasattr(value, "__dict__"):
        entries = [(f".{field.name}", getattr(value, field.name, None)) for field in fields(value)]
    elif isinstance(value, np.ndarray):
        entries = [(".dtype", str(value.dtype)), (".shape", str(value.shape)), ("", value.tobytes())]
    else:
        found.append((path, value))
        return
    found.append((path, type(value)))
    for key, entry in entries:
        _collect(entry, path + key, found, (*above, id(value)))


# --- to undo what a forward does ---------------------------------------------------------------------------------


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Undo what a forward does to its modules, to what they hold, and to the random generators.

    Yields whether it has done something.
    """
    saved = [(held, _copy(held)) for held in _held(model)]
    generators = random.getstate(), np.random.get_state()  # noqa: NPY002

    def changed() -> bool:
        moved = random.getstate() != generators[0] or not torch.equal(torch.get_rng_state(), before)
        return moved or any(not _same(now, then) for now, then in saved)

    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        try:
            yield changed
        finally:
            for now, then in saved:
                if not _same(now, then):
                    now.clear()
                    now.update(then) if isinstance(now, dict | set) else now.extend(then)
            random.setstate(generators[0])
            np.random.set_state(generators[1])  # noqa: NPY002


def parts_of(value: Any) -> Any:
    """The collection that a value is, or that holds its attributes; None if there is none, or it is a tool."""
    if isinstance(value, dict | list | set | deque | tuple):
        return value
    if type(value).__module__.partition(".")[0] in _TOOLS or isinstance(value, Tensor | nn.Module | type):
        return None
    attributes = getattr(value, "__dict__", None)
    return attributes if isinstance(attributes, dict) else None


def _held(model: nn.Module) -> list[Any]:
    """The attributes of the modules, and the collections and objects in them."""
    found: dict[int, Any] = {}
    waiting: list[tuple[Any, int]] = [(m.__dict__, 0) for m in model.modules()]
    most = len(waiting) + 10 * _MANY
    while waiting:
        parts, depth = waiting.pop()
        if id(parts) in found:
            continue
        found[id(parts)] = parts
        if depth < _DEEP and len(parts) <= _MANY and len(found) <= most:
            inner = (parts_of(v) for v in (parts.values() if isinstance(parts, dict) else parts))
            waiting += [(v, depth + 1) for v in inner if v is not None]
    return [parts for parts in found.values() if not isinstance(parts, tuple)]


def _copy(held: Any) -> Any:
    return dict(held) if isinstance(held, dict) else set(held) if isinstance(held, set) else list(held)


def _same(now: Any, then: Any) -> bool:
    if isinstance(now, dict):
        return list(now) == list(then) and all(v is then[k] for k, v in now.items())
    if isinstance(now, set):
        return bool(now == then)
    return len(now) == len(then) and all(one is other for one, other in zip(now, then, strict=True))
