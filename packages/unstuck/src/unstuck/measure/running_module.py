"""A module of the model that is running: what the layers in it are called."""

from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from unstuck.extensions import is_ours


@dataclass
class RunningModule:
    """A module that is running, by its name in the model; so many layers had run before."""

    module: nn.Module
    name: str
    layers: int

    def __post_init__(self) -> None:
        self.kind, own = _kind_and_origin(type(self.module))  # type: ignore[arg-type]  # a class has a hash
        # Its next function makes the layer that has its name: it is a layer of PyTorch's or ours.
        self.is_layer = own and all(child == "parametrizations" for child, _ in self.module.named_children())
        self.alike = str(getattr(self.module, "unstuck_function", ""))  # of another package, which says so
        self.parametrizes = "parametrizations" in self.name.split(".")  # it computes a weight of another module


@lru_cache(maxsize=256)
def _kind_and_origin(cls: type) -> tuple[str, bool]:
    """The name of a module's class (below `fully_shard` and `parametrize`), and whether it is PyTorch's or ours."""
    modules = [c.__module__ for c in cls.__mro__ if c is not nn.Module]
    own = any(module.startswith("torch.nn.modules") or is_ours(module) for module in modules)
    base = cls.__bases__[-1]
    wraps = cls.__name__ in (f"FSDP{base.__name__}", f"Parametrized{base.__name__}")
    return base.__name__ if wraps else cls.__name__, own
