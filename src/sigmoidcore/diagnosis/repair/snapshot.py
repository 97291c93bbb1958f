"""A model's structure and state as they were, to be put back."""

import torch
from torch import nn

from sigmoidcore.conversion.traced_forward import TracedForward
from sigmoidcore.core import SigmoidCore


class Kept:
    """Remembers modules, their attributes, buffers and slopes: all that `convert` and `calibrate` change.

    Weights are not copied, for nothing here changes them.

    Args:
        model: the model as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._attributes = [(m, dict(m.__dict__)) for m in modules]
        self._members = [(d, dict(d)) for m in modules for d in (m._modules, m._buffers, m._parameters)]
        forwards = [f for m in modules if isinstance(f := m.__dict__.get("forward"), TracedForward)]
        self._fixed = [(forward, forward.fixed) for forward in forwards]
        slopes = [p for m in modules if isinstance(m, SigmoidCore) for p in m.parameters(recurse=False)]
        self._values = [(t, t.detach().clone()) for t in (*model.buffers(), *slopes)]

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the model what it was."""
        for module, attributes in self._attributes:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for members, before in self._members:
            members.clear()
            members.update(before)  # type: ignore[arg-type]
        for forward, fixed in self._fixed:
            forward.fixed = fixed
        for tensor, value in self._values:
            tensor.copy_(value)
