"""The names that a caller has for its variables: a printed call that uses them runs where they are."""

import inspect
import sys
from typing import Any


def callers_names(**values: Any) -> dict[str, str]:
    """A name for each value: its variable where the function was called that calls this, or the one given here."""
    frame = inspect.currentframe()
    caller = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
    variables = {} if caller is None else {**caller.f_globals, **caller.f_locals}
    found = {id(value): name for name, value in variables.items() if not name.startswith("_")} | {id(None): "None"}
    return {name: found.get(id(value)) or _path(value) or name for name, value in values.items()}


def _path(value: Any) -> str | None:
    """Where PyTorch has a function, such as torch.nn.functional.mse_loss."""
    module, name = getattr(value, "__module__", None) or "", getattr(value, "__name__", "")
    known = module.startswith("torch.") and getattr(sys.modules.get(module), name, None) is value
    return f"{module}.{name}" if known else None
