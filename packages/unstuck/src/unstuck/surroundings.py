"""The model that a running module belongs to, which no object of the module leads to."""

import gc
from itertools import compress

from torch import nn

WRAPPED = (["module"], ["_orig_mod"], ["_forward_module"])
"""Names of the only child of a wrapper: of `DistributedDataParallel`, `torch.compile` and Lightning Fabric."""


def surroundings(module: nn.Module) -> nn.Module:
    """The largest module that contains this one, without wrappers such as those of DDP.

    A framework may call a part of the model only, and no object leads from a module to the one that contains it.
    """
    classes: list[type] = [nn.Module]
    for of in classes:
        classes += type.__subclasses__(of)
    # isinstance would ask the object, and a proxy may run code or fail: only the identity of its class is asked.
    own, objects = set(map(id, classes)), gc.get_objects()
    containing: dict[int, list[nn.Module]] = {}
    for found in compress(objects, map(own.__contains__, map(id, map(type, objects)))):
        for child in nn.Module.children(found) if "_modules" in vars(found) else ():
            containing.setdefault(id(child), []).append(found)
    around = {id(module): module}
    queue = [module]
    for inner in queue:
        for outer in containing.get(id(inner), ()):
            if id(outer) not in around:
                around[id(outer)] = outer
                queue.append(outer)
    models = [m for m in queue if not isinstance(m, nn.ModuleList | nn.ModuleDict)] or queue
    model = max(models, key=lambda m: sum(1 for _ in m.parameters()))
    while [name for name, _ in model.named_children()] in WRAPPED:
        model = next(model.children())
    return model
