"""Small tensors of one shape, gathered until there are enough of them to be computed together.

A network of a thousand narrow layers asks for a dozen numbers of each. A call of PyTorch takes longer than the numbers.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SMALL = 2**15
"""Numbers of a tensor from which on it is computed by itself."""
ROOM = 2**18
"""Numbers that are gathered before they are computed."""

See = Callable[[Tensor, list[Any]], None]
"""Computes: a stack of tensors, [tensors, ...], and for each where its results go."""


@dataclass
class _Batch:
    see: See
    stack: Tensor
    owners: list[Any]


class Batches:
    """Gathers copies of tensors, so that whoever made them may change them."""

    def __init__(self) -> None:
        self._batches: dict[Hashable, _Batch] = {}

    def put(self, key: Hashable, values: Tensor, owner: Any, see: See) -> None:
        """Take a tensor.

        Args:
            key: what is to be computed; of one key, `see` must do the same whichever is called.
            values: detached.
            owner: where its results go.
            see: computes it, now or later, together with others of the same key, shape, dtype and device.
        """
        count = values.numel()
        if count > SMALL:
            see(values.unsqueeze(0), [owner])
            return
        key = key, values.shape, values.dtype, values.device
        batch = self._batches.get(key)
        if batch is None:
            room = max(1, min(64, ROOM // max(1, count)))
            batch = self._batches[key] = _Batch(see, values.new_empty((room, *values.shape)), [])
        batch.stack[len(batch.owners)].copy_(values)
        batch.owners.append(owner)
        if len(batch.owners) == batch.stack.shape[0]:
            self._compute(batch)

    def flush(self) -> None:
        """Compute what is left, and let the memory go."""
        for batch in self._batches.values():
            self._compute(batch)
        self._batches = {}

    @torch.no_grad()
    def _compute(self, batch: _Batch) -> None:
        if batch.owners:
            batch.see(batch.stack[: len(batch.owners)], batch.owners)
            batch.owners = []
