"""What a forward and a backward pass write into a model, and into other leaves of the graph, is put back."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def own_buffers(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass writes into buffers; one of another shape stays: a cache that has grown.

    Of a sparse one, which no layer writes into, the buffer itself is put back and not its numbers.
    """
    kept = [(m, n, b, b.clone()) for m in model.modules() for n, b in m.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, name, buffer, copy in kept:
            now = dict(module._buffers.items()).get(name)  # TorchScript's has no get
            if now is not None and now.shape == buffer.shape:
                if now is not buffer:
                    module._buffers[name] = buffer
                if buffer.layout is torch.strided and not torch.equal(buffer, copy):
                    buffer.copy_(copy)


@contextmanager
def own_gradients(leaves: Iterable[Tensor]) -> Iterator[Callable[[Iterable[Tensor]], None]]:
    """Let a backward pass fill `.grad`, as FSDP and checkpoints need it, and put back what was there.

    Args:
        leaves: those that are known before the forward pass.

    Yields:
        A function that takes more of them.
    """
    kept: dict[int, tuple[Tensor, Tensor | None]] = {}
    hooks: list[tuple[Any, dict[Any, Any]]] = []

    def keep(leaves: Iterable[Tensor]) -> None:
        for leaf in leaves:
            if id(leaf) not in kept:
                kept[id(leaf)] = leaf, leaf.grad
                leaf.grad = None
                held = getattr(leaf, "_post_accumulate_grad_hooks", None)  # of optimizers that step in there
                if held:
                    hooks.append((held, dict(held)))
                    held.clear()

    keep(leaves)
    try:
        yield keep
    finally:
        for leaf, gradient in kept.values():
            leaf.grad = gradient
        for held, before in hooks:
            held.update(before)
