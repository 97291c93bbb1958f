"""A torch.fx proxy that a forward takes for a tensor."""

import torch
from torch import fx


class TensorProxy(fx.Proxy):
    """A value while a forward is traced: `isinstance(value, torch.Tensor)` is true, as it is when the model runs.

    `fx.Proxy` answers no, and the forward would silently take another branch.
    """

    _is_param = False  # nn.Parameter and nn.Buffer ask for these where a value is set as an attribute
    _is_buffer = False

    @property
    def __class__(self) -> type:
        """The class that `isinstance` is told."""
        return torch.Tensor

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("a proxy keeps its class")
