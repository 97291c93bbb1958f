"""The structure and the state of a model, to be restored."""

import torch
from torch import nn


class Snapshot:
    """Everything that a repair changes: modules, their attributes, parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._attributes = [(module, dict(vars(module))) for module in model.modules()]
        self._values = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the model."""
        for name, module in list(self._model.named_modules(remove_duplicate=False)):
            if self._modules.get(name) is module or not name:
                continue
            parent, _, key = name.rpartition(".")
            if parent in self._modules and self._model.get_submodule(parent) is self._modules[parent]:
                if name in self._modules:
                    setattr(self._modules[parent], key, self._modules[name])
                else:
                    delattr(self._modules[parent], key)
        for module, attributes in self._attributes:
            vars(module).clear()
            vars(module).update(attributes)
        for tensor, value in self._values:
            if not torch.equal(tensor, value):
                tensor.copy_(value)
