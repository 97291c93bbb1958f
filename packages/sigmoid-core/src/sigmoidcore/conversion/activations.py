"""The activations of PyTorch, and those that have a core: bounded functions, whose core has the same range."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional
from torch.nn.modules import activation


@dataclass(frozen=True)
class Kind:
    """An activation with a core."""

    module: type[nn.Module]  # its class in PyTorch
    # gives the arguments of the core of one such module, as `{"alpha": 2 / 3}` of a Hardsigmoid; None if no core has
    # the range of this module. For a call as a function, it gets None in place of the module.
    core: Callable[[Any], dict[str, Any] | None]
    exact: bool = True  # whether the core computes the same; else it has the same range and derivative at 0
    has_mean: bool = False  # whether its outputs have a mean of 1/2. A centered core of it is another function.


def _tanh(_: object) -> dict[str, Any]:
    return {"alpha": 2.0, "centered": True, "scale": 2.0}


def _hardtanh(module: nn.Hardtanh) -> dict[str, Any] | None:
    low, high = module.min_val, module.max_val
    return {"alpha": 2 / high, "centered": True, "scale": 2 * high} if high > 0 and low == -high else None


_KINDS = (
    Kind(nn.Sigmoid, lambda _: {}, has_mean=True),
    Kind(nn.Tanh, _tanh),
    Kind(nn.Hardsigmoid, lambda _: {"alpha": 2 / 3}, exact=False, has_mean=True),
    Kind(nn.Hardtanh, _hardtanh, exact=False),
    Kind(nn.Softsign, _tanh, exact=False),
)
FUNCTIONS = {f"{kind.module.__name__.lower()}()": kind for kind in _KINDS if kind.exact}
"""The kinds whose calls as functions can be converted, by their name in a report: "tanh()"."""
KINDS = FUNCTIONS | {kind.module.__name__: kind for kind in _KINDS}
"""All kinds, by their name in a report: "Tanh" or "tanh()"."""
NEAREST = tuple(name for name, kind in KINDS.items() if not kind.exact)
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
