"""The names that a caller has for its variables: a printed call that uses them runs where they are."""

import inspect
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from unstuck.extensions import is_ours


def caller() -> FrameType | None:
    """The frame that called the function that calls this; None within this package, whose names mean nothing to users.

    A frame keeps its variables alive: read it and drop it.
    """
    frame = inspect.currentframe()
    found = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
    inside = found is None or is_ours(str(found.f_globals.get("__name__")))
    return None if inside else found


def names_in(frame: FrameType | None, values: Mapping[str, Any]) -> dict[str, str]:
    """A name for each value: that of the caller's variable, or the one that is suggested."""
    variables = {} if frame is None else {**frame.f_globals, **frame.f_locals}
    places: dict[int, str] = {}
    for name, value in variables.items():
        if not name.startswith("_") and value is not None:
            places[id(value)] = name
    known = {id(None): "None", **places}
    return {name: known.get(id(value)) or _path(value) or name for name, value in values.items()}


def _path(value: Any) -> str | None:
    """Where PyTorch has a function, such as torch.nn.functional.mse_loss."""
    module, name = getattr(value, "__module__", None) or "", getattr(value, "__name__", "")
    known = module.startswith("torch.") and getattr(sys.modules.get(module), name, None) is value
    return f"{module}.{name}" if known else None
