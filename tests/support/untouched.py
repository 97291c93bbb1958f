"""Check that a call does not change a model, also if it raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def bits(tensor: Tensor | None) -> Any:
    """The value for a comparison bit for bit: nan equals nan, and -0.0 is not 0.0."""
    if tensor is None:
        return None
    return tensor.dtype, tensor.shape, tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


def facts(model: nn.Module) -> dict[str, Any]:
    """Everything that a call may change, by the name of its tensor or module."""
    found: dict[str, Any] = {"random generator": bits(torch.get_rng_state())}
    for name, p in model.named_parameters():
        found |= {name: bits(p), f"{name} grad": (id(p.grad), bits(p.grad)), f"{name} trains": p.requires_grad}
    found |= {name: bits(buffer) for name, buffer in model.named_buffers()}
    for name, m in model.named_modules():
        hooks = [len(of) for of in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
        found[f"module {name}"] = id(m), m.training, hooks, sorted(m.__dict__), m.extra_repr()
    return found


@contextmanager
def untouched(model: nn.Module, *, but: tuple[str, ...] = ()) -> Iterator[None]:
    """Check that model and random generator do not change, except names that end with one of `but`."""
    before = facts(model)
    yield
    after = facts(model)
    changed = [n for n in before | after if before.get(n) != after.get(n) and not n.endswith(but)]
    assert not changed, changed
