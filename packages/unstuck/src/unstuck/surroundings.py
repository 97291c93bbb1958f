"""The model that a running module belongs to, which no object of the module leads to."""

import gc
from collections.abc import Sequence

import torch
from torch import nn

WRAPPED = (["module"], ["_orig_mod"], ["_forward_module"])
"""Names of the only child of a wrapper: of `DistributedDataParallel`, `torch.compile` and Lightning Fabric."""


def surroundings(module: nn.Module, *, collect: bool) -> tuple[nn.Module, Sequence[torch.amp.GradScaler]]:
    """The largest module that contains this one, without wrappers such as those of DDP, and all gradient scalers.

    A framework may call a part of the model only, and no object leads from a module to the one that contains it. With
    `collect`, what nobody has any more, such as optimizers, is freed in any case.
    """
    alone = _is_alone(module)
    if collect or not alone:
        gc.collect()  # a model or a scaler that nobody has any more belongs to no training
    if alone:
        return _unwrapped(module), ()
    containing: dict[int, list[nn.Module]] = {}
    scalers = []
    for found in gc.get_objects():
        kind = type(found)  # isinstance would ask the object, and a proxy may run code or fail
        if issubclass(kind, torch.amp.GradScaler) and found.is_enabled():
            scalers.append(found)
        elif issubclass(kind, nn.Module) and "_modules" in vars(found):
            for child in nn.Module.children(found):
                containing.setdefault(id(child), []).append(found)
    around = {id(module): module}
    queue = [module]
    for inner in queue:
        for outer in containing.get(id(inner), ()):
            if id(outer) not in around:
                around[id(outer)] = outer
                queue.append(outer)
    models = [m for m in queue if not isinstance(m, nn.ModuleList | nn.ModuleDict)] or queue
    return _unwrapped(max(models, key=lambda m: sum(1 for _ in m.parameters()))), scalers


def _is_alone(module: nn.Module) -> bool:
    """Whether no module contains this one and no gradient scaler exists: a tenth of the cost of finding them."""
    kinds = [torch.amp.GradScaler]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for found in gc.get_referrers(module, *kinds):  # an object refers to its class
        if issubclass(type(found), torch.amp.GradScaler):
            return False
        values = list(found.values()) if isinstance(found, dict) else []
        children = all(value is None or issubclass(type(value), nn.Module) for value in values)
        if children and any(value is module for value in values):
            return False  # it may be the children of a module
    return True


def _unwrapped(module: nn.Module) -> nn.Module:
    while [name for name, _ in module.named_children()] in WRAPPED:
        module = next(module.children())
    return module
