"""Small tensors of one shape are gathered and computed together.

A network of a thousand narrow layers asks for a dozen numbers of each. A call of PyTorch takes longer than the numbers.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from torch import Tensor

from unstuck.measure.statistics import Sums

SMALL = 2**15
"""Numbers of a tensor from which on it is computed by itself."""
ROOM = 2**18
"""Numbers that are gathered before they are computed."""

Compute = Callable[[Tensor, list[Sums]], None]
"""Adds the numbers of a stack of tensors, [tensors, ...], to the sums of each."""


@dataclass
class _Batch:
    compute: Compute
    stack: Tensor
    owners: list[Sums] = field(default_factory=list)


class Batches:
    """Gathers copies of tensors, so that the model may change its own."""

    def __init__(self) -> None:
        self._batches: dict[Hashable, _Batch] = {}

    def put(self, key: Hashable, values: Tensor, owner: Sums, compute: Compute) -> None:
        """Compute a tensor, now or later with others of its key, shape, dtype and device; now if the key is None."""
        if key is None or values.numel() > SMALL:
            compute(values.unsqueeze(0), [owner])
            return
        key = key, values.shape, values.dtype, values.device
        batch = self._batches.get(key)
        if batch is None:
            room = max(1, min(64, ROOM // max(1, values.numel())))
            batch = self._batches[key] = _Batch(compute, values.new_empty((room, *values.shape)))
        batch.stack[len(batch.owners)].copy_(values)
        batch.owners.append(owner)
        if len(batch.owners) == batch.stack.shape[0]:
            self.flush()

    def flush(self) -> None:
        """Compute what waits and free the memory."""
        for batch in self._batches.values():
            batch.compute(batch.stack[: len(batch.owners)], batch.owners)
        self._batches = {}
