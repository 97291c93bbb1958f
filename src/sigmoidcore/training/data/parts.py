"""The training part or the test part of a data set: its batches, from memory or from files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sigmoidcore.training.data.order import shuffled

Batch = tuple[Tensor, Tensor]


class Part(Protocol):
    """Samples that can be had in batches."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All samples as they come; the last batch may be smaller."""
        ...

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """All samples from batch `start` on, in an order that seed and epoch decide alone."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Samples in memory.

    Attributes:
        x: inputs, float32, [samples, ...].
        y: class numbers, int64, [samples]; or numbers, float32, [samples, numbers].
        order: of the samples, from their number, the seed and the epoch.
    """

    x: Tensor
    y: Tensor
    order: Callable[[int, int, int], Tensor] = shuffled

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.x)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All samples as they come."""
        yield from zip(torch.split(self.x, batch_size), torch.split(self.y, batch_size), strict=True)

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Samples from batch `start` on, in this epoch's order."""
        for rows in batches_of_rows(self.order(len(self), seed, epoch), batch_size, start):
            yield self.x[rows], self.y[rows]


def batches_of_rows(order: Tensor, batch_size: int, start: int) -> Iterator[Tensor]:
    """The row numbers of each batch, from batch `start` on."""
    rows = order[start * batch_size :]
    if len(rows):
        yield from torch.split(rows, batch_size)


def first(part: Part, count: int) -> Batch:
    """The first samples, at most `count`."""
    return next(iter(part.in_order(count)))


def rebatched(pieces: Iterator[Batch], batch_size: int, skip: int = 0) -> Iterator[Batch]:
    """Pieces of any size, cut into batches of one size; the first `skip` samples are left out."""
    held: list[Batch] = []
    count = 0
    for x, y in pieces:
        dropped = min(skip, len(x))
        skip -= dropped
        x, y = x[dropped:], y[dropped:]
        while len(x):
            taken = min(batch_size - count, len(x))
            held.append((x[:taken], y[:taken]))
            count += taken
            x, y = x[taken:], y[taken:]
            if count == batch_size:
                yield joined(held)
                held, count = [], 0
    if held:
        yield joined(held)


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches as one."""
    if len(batches) == 1:
        return batches[0]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
