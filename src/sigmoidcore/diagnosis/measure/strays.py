"""Weights that train and are not parameters of the model: layers in a Python list, plain tensors."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that every module has: PyTorch knows what they hold."""


class Strays:
    """Collects the stray weights of a pass."""

    def __init__(self) -> None:
        self.places: dict[str, None] = {}  # where modules keep them, such as "layers[0].weight"
        self._elsewhere: list[str] = []
        self._known: set[int] = set()

    @property
    def note(self) -> str:
        """A sentence about those that no module keeps; "" without any."""
        if not self._elsewhere:
            return ""
        count = len(self._elsewhere)
        found = f"{count} weights that train and are not parameters of the model, the first"
        if count == 1:
            found = "a weight that trains and is not a parameter of the model,"
        return f"{found} of shape {self._elsewhere[0]}: model.parameters() does not give them to an optimizer"

    def add(self, stray: Tensor, function: str, modules: Sequence[tuple[str, nn.Module]]) -> None:
        """Note a weight that a function takes in these running modules, outermost first."""
        if id(stray) in self._known:
            return
        self._known.add(id(stray))
        place = _place(modules, stray)
        if place:
            self.places[place] = None
        else:
            name = modules[-1][0]
            where = f"the forward of '{name}'" if name else "the model's own forward"
            self._elsewhere.append(f"{tuple(stray.shape)}, which {function} takes in {where}")


def _place(modules: Sequence[tuple[str, nn.Module]], weight: Tensor) -> str:
    """Where a running module keeps a weight; "" if none does."""
    for name, module in reversed(modules):
        for attribute, value in vars(module).items():
            place = None if attribute in _EVERY_MODULE else _place_in(value, weight)
            if place is not None:
                return f"{name}.{attribute}{place}" if name else f"{attribute}{place}"
    return ""


def _place_in(value: Any, weight: Tensor) -> str | None:
    """Where a weight is in lists, dicts and modules, as code after their name; None: it is not in them."""
    if value is weight:
        return ""
    if isinstance(value, nn.Module):
        return next((f".{name}" for name, own in value.named_parameters() if own is weight), None)
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, child in children:
        place = _place_in(child, weight)
        if place is not None:
            return f"[{key!r}]{place}"
    return None
