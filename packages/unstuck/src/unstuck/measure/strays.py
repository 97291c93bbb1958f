"""Weights that train and are not parameters of the model: layers in a Python list, plain tensors."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that every module has: PyTorch knows what they hold."""


def place_of(weight: Tensor, modules: Sequence[tuple[str, nn.Module]]) -> str:
    """Where running modules (by name, outermost first) keep a weight, such as "layers[0].weight"; "" if none does."""
    for name, module in reversed(modules):
        for attribute, value in vars(module).items():
            place = None if attribute in _OF_EVERY_MODULE else _place_in(value, weight)
            if place is not None:
                return f"{name}.{attribute}{place}" if name else f"{attribute}{place}"
    return ""


def is_product(tensor: Tensor) -> bool:
    """Whether a tensor was computed from leaves at once, such as `nn.Parameter(...) * 0.1`."""
    node = tensor.grad_fn
    return node is not None and all(source is None or hasattr(source, "variable") for source, _ in node.next_functions)


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
