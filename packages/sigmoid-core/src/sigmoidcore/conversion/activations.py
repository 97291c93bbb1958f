"""The activations of PyTorch, and those that have a core."""

from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional
from torch.nn.modules import activation


@dataclass(frozen=True)
class Kind:
    """An activation with a core."""

    module: type[nn.Module]  # its class in PyTorch
    core: dict[str, Any]  # the arguments of the core that computes the same
    has_mean: bool = False  # whether its outputs have a mean of 1/2. A centered core of it is another function.


_KINDS = Kind(nn.Sigmoid, {}, has_mean=True), Kind(nn.Tanh, {"alpha": 2.0, "centered": True, "scale": 2.0})
FUNCTIONS = {f"{kind.module.__name__.lower()}()": kind for kind in _KINDS}
"""The kinds by their name in a report if they are called as functions: "tanh()"."""
KINDS = FUNCTIONS | {kind.module.__name__: kind for kind in _KINDS}
"""All kinds, by their name in a report: "Tanh" or "tanh()"."""
WITH_MEAN = tuple(name for name, kind in KINDS.items() if kind.has_mean)
_MODULES = {name.lower() for name in activation.__all__}
_PUBLIC = {name.replace("_", ""): name for name in dir(functional) if not name.endswith("_")}
_ALL_FUNCTIONS = {"expit": "sigmoid", "specialexpit": "sigmoid"} | {
    spelling: name for spelling, name in _PUBLIC.items() if spelling in _MODULES
}
"""All activations in torch.nn.functional by their spelling without underscores: those that are a module, too."""


def function_name(spelling: str) -> str | None:
    """The name in torch.nn.functional of an activation function or method, also in place; None if it is another one."""
    return _ALL_FUNCTIONS.get(spelling.replace("_", ""))


def function_of(node: fx.Node) -> str | None:
    """The name of the activation function that a node calls, as in torch.nn.functional, or None."""
    if node.op == "call_method":
        return function_name(str(node.target))
    if node.op != "call_function":
        return None
    module = str(getattr(node.target, "__module__", "")).partition(".")[0]
    return function_name(str(getattr(node.target, "__name__", ""))) if module in ("torch", "None", "") else None
