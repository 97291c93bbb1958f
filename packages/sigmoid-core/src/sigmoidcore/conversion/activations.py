"""The activations of PyTorch, and those that have a core."""

from typing import Any

from torch import fx, nn
from torch.nn import functional
from torch.nn.modules import activation

_CORES: dict[type[nn.Module], dict[str, Any]] = {
    nn.Sigmoid: {},
    nn.Tanh: {"alpha": 2.0, "centered": True, "scale": 2.0},
}
FUNCTIONS = {f"{kind.__name__.lower()}()": kind for kind in _CORES}
"""The class in PyTorch of each activation with a core, by its name in a report if it is called as a function."""
KINDS = {name: core for kind, core in _CORES.items() for name in (kind.__name__, f"{kind.__name__.lower()}()")}
"""The arguments of the core that computes the same, by the name in a report: "Tanh" or "tanh()"."""
WITH_MEAN = tuple(name for name, core in KINDS.items() if "centered" not in core)
"""Those whose outputs have a mean of 1/2. A centered core of one is another function."""
_MODULES = {name.lower() for name in activation.__all__}
_PUBLIC = {name.replace("_", ""): name for name in dir(functional) if not name.endswith("_")}
_ALL_FUNCTIONS = {"expit": "sigmoid", "specialexpit": "sigmoid"} | {
    spelling: name for spelling, name in _PUBLIC.items() if spelling in _MODULES
}
"""All activations in torch.nn.functional by their spelling without underscores: those that are a module, too."""


def called(node: fx.Node) -> str:
    """The name of the function, method or attribute of PyTorch that a node calls, or ""."""
    if node.op == "call_method" or node.target is getattr:
        return str(node.args[1] if node.target is getattr else node.target)
    module = str(getattr(node.target, "__module__", "")).partition(".")[0]
    of_torch = node.op == "call_function" and module in ("torch", "_operator", "None", "")
    return str(getattr(node.target, "__name__", "")) if of_torch else ""


def function_of(node: fx.Node) -> str | None:
    """The name in torch.nn.functional of the activation that a node calls, also in place or as a method, or None."""
    return _ALL_FUNCTIONS.get(called(node).replace("_", ""))
