"""The model that a running module belongs to, which no object of the module leads to."""

import gc
import sys
from collections.abc import Iterable
from itertools import compress
from typing import Any

from torch import nn
from torch.optim import Optimizer

from unstuck.measure.optimizer_steps import moved

WRAPPED = (["module"], ["_orig_mod"], ["_forward_module"])
"""Names of the only child of a wrapper: of `DistributedDataParallel`, `torch.compile` and Lightning Fabric."""

CONTAINERS = nn.ModuleList | nn.ModuleDict
MOST_NAMED = 3


class Parts(nn.ModuleDict):
    """Modules and parameters that no module contains, and that one optimizer moves: an encoder and a decoder."""

    def __init__(self, parts: Iterable[nn.Module | nn.Parameter]) -> None:
        super().__init__()
        variables = {id(value): name for name, value in vars(sys.modules["__main__"]).items()}
        for part in parts:
            name = variables.get(id(part)) or type(part).__name__
            same = sum(other.partition(" ")[0] == name for other in (*self._modules, *self._parameters))
            own = self._parameters if isinstance(part, nn.Parameter) else self._modules
            own[f"{name} {same + 1}" if same else name] = part  # type: ignore[assignment]  # also "keys" or "train"

    @property
    def title(self) -> str:
        """The names of the first parts."""
        names = [*self._modules, *self._parameters]
        return "+".join(names if len(names) <= MOST_NAMED else [*names[:MOST_NAMED], "..."])


def surroundings(module: nn.Module) -> nn.Module:
    """The largest module that contains this one, without wrappers such as those of DDP.

    A framework may call a part of the model only, and no object leads from a module to the one that contains it. A list
    or dictionary of modules is a model if one optimizer moves it, and so are modules apart.
    """
    objects = gc.get_objects()
    modules = [one for one in _instances(nn.Module, objects) if "_modules" in vars(one) and type(one) is not Parts]
    containing: dict[int, list[nn.Module]] = {}
    for outer in modules:
        for child in nn.Module.children(outer):
            containing.setdefault(id(child), []).append(outer)
    around = {id(module): module}
    queue = [module]
    for inner in queue:
        for outer in containing.get(id(inner), ()):
            if id(outer) not in around:
                around[id(outer)] = outer
                queue.append(outer)
    optimizers = {one: moved(one) for one in _instances(Optimizer, objects) if hasattr(one, "param_groups")}
    model = max(queue, key=_size)
    if isinstance(model, CONTAINERS) and not any(identities(model) <= held for held in optimizers.values()):
        model = max([m for m in queue if not isinstance(m, CONTAINERS)] or queue, key=_size)
    model = _unwrapped(model)
    own = _trained(model)
    both = [one for one, held in optimizers.items() if own and own < held]
    return _joined(model, min(both, key=lambda one: len(optimizers[one])), modules) if both else model


def _joined(model: nn.Module, optimizer: Optimizer, modules: list[nn.Module]) -> nn.Module:
    """A model with what else its optimizer moves: the largest modules whose trained parameters it has, and the rest."""
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    parts, left = [model], held.keys() - _trained(model)
    for module in sorted(modules, key=_size, reverse=True):
        own = _trained(module)
        if own and own <= left:
            parts.append(_unwrapped(module))
            left -= own
    order = {key: i for i, key in enumerate(held)}
    parts.sort(key=lambda part: min(order.get(key, len(order)) for key in identities(part)))
    alone = [p for key, p in held.items() if key in left and isinstance(p, nn.Parameter)]
    return Parts([*parts, *alone]) if len(parts) + len(alone) > 1 else model


def _unwrapped(module: nn.Module) -> nn.Module:
    while [name for name, _ in module.named_children()] in WRAPPED:
        module = next(module.children())
    return module


def _instances(of: type[Any], objects: list[Any]) -> list[Any]:
    """The objects of a class; the identity of theirs is asked, for a proxy may run code, or fail."""
    classes = [of]
    for one in classes:
        classes += type.__subclasses__(one)
    known = set(map(id, classes))
    return list(compress(objects, map(known.__contains__, map(id, map(type, objects)))))


def identities(module: nn.Module) -> set[int]:
    """The identities of its parameters."""
    return {id(p) for p in nn.Module.parameters(module)}


def _trained(module: nn.Module) -> set[int]:
    return {id(p) for p in nn.Module.parameters(module) if p.requires_grad}


def _size(module: nn.Module) -> int:
    return len(identities(module))
