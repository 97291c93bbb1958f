"""Parameters and buffers of a module, in a fraction of the time of `getattr`."""

from torch import Tensor, nn


def parameter(module: nn.Module, name: str) -> Tensor | None:
    """A registered parameter, faster than `getattr`; None if it is computed from others."""
    return module._parameters.get(name)


def buffer(module: nn.Module, name: str) -> Tensor:
    """A registered buffer, faster than `getattr`: a step of a deep network reads thousands."""
    found = module._buffers[name]
    assert found is not None
    return found
