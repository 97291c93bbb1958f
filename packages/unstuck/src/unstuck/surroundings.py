"""The model that a running module belongs to, which no object of the module leads to."""

import gc
from contextlib import suppress
from itertools import compress
from typing import Any

from torch import nn
from torch.optim import Optimizer

WRAPPED = (["module"], ["_orig_mod"], ["_forward_module"])
"""Names of the only child of a wrapper: of `DistributedDataParallel`, `torch.compile` and Lightning Fabric."""

CONTAINERS = nn.ModuleList | nn.ModuleDict


def surroundings(module: nn.Module) -> nn.Module:
    """The largest module that contains this one, without wrappers such as those of DDP.

    A framework may call a part of the model only, and no object leads from a module to the one that contains it. A list
    or dictionary of modules is a model if each optimizer that holds a part of it holds all.
    """
    classes: list[type] = [nn.Module]
    for of in classes:
        classes += type.__subclasses__(of)
    # isinstance would ask the object, and a proxy may run code or fail: only the identity of its class is asked.
    known, objects = set(map(id, classes)), gc.get_objects()
    containing: dict[int, list[nn.Module]] = {}
    for found in compress(objects, map(known.__contains__, map(id, map(type, objects)))):
        for child in nn.Module.children(found) if "_modules" in vars(found) else ():
            containing.setdefault(id(child), []).append(found)
    around = {id(module): module}
    queue = [module]
    for inner in queue:
        for outer in containing.get(id(inner), ()):
            if id(outer) not in around:
                around[id(outer)] = outer
                queue.append(outer)
    model = max(queue, key=_size)
    if isinstance(model, CONTAINERS) and not _is_moved_as_one(model, objects):
        model = max([m for m in queue if not isinstance(m, CONTAINERS)] or queue, key=_size)
    while [name for name, _ in model.named_children()] in WRAPPED:
        model = next(model.children())
    return model


def _is_moved_as_one(module: nn.Module, objects: list[Any]) -> bool:
    own, held = identities(module), list[set[int]]()
    for one in (each for each in objects if issubclass(type(each), Optimizer)):
        with suppress(Exception):  # somebody's own optimizer, unfinished perhaps
            held.append({id(p) for group in one.param_groups for p in group["params"]} & own)
    return own in held and all(part in (own, set()) for part in held)


def identities(module: nn.Module) -> set[int]:
    """The identities of its parameters."""
    return {id(p) for p in module.parameters()}


def _size(module: nn.Module) -> int:
    return len(identities(module))
