"""Restores what a forward and a backward pass write into a model and into other leaves of the graph."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore._torch.autograd import post_accumulate_hooks


@contextmanager
def own_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers after a forward pass; a buffer of another shape stays: a cache that has grown."""
    kept = [(m, n, b, b.clone()) for m in model.modules() for n, b in m.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, name, buffer, copy in kept:
            now = getattr(module, name, None)
            if now is not None and now.shape == buffer.shape:
                if now is not buffer:
                    setattr(module, name, buffer)
                if buffer.layout is torch.strided and not torch.equal(buffer, copy):
                    buffer.copy_(copy)


@contextmanager
def own_gradients(leaves: Iterable[Tensor]) -> Iterator[Callable[[Iterable[Tensor]], None]]:
    """Let a backward pass fill `.grad` of leaves, as FSDP and checkpoints need it, and restore it afterwards.

    Yields a function that takes leaves that are known after the forward pass only.
    """
    kept: dict[int, tuple[Tensor, Tensor | None]] = {}
    hooks: list[tuple[dict[int, Any], dict[int, Any]]] = []

    def keep(leaves: Iterable[Tensor]) -> None:
        for leaf in leaves:
            if id(leaf) not in kept:
                kept[id(leaf)] = leaf, leaf.grad
                leaf.grad = None
                stepping = post_accumulate_hooks(leaf)  # of optimizers that step in the backward pass
                hooks.append((stepping, dict(stepping)))
                stepping.clear()

    keep(leaves)
    try:
        yield keep
    finally:
        for leaf, gradient in kept.values():
            leaf.grad = gradient
        for stepping, before in hooks:
            stepping.update(before)
