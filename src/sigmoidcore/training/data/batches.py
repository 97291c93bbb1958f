"""Batches of a part of a data set, from memory, from image files or from a stream.

Seed and epoch alone decide the order of an epoch, and a part gives its batches from any position on. That is the whole
state of an interrupted epoch, so a loader with a state of its own (torchdata's StatefulDataLoader) is not needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.preprocessing import Preprocessing, TableInputs
from sigmoidcore.training.data.readers import Group, TableFiles
from sigmoidcore.training.data.splits import mixed, shuffled

Batch = tuple[Tensor, Tensor]
"""Inputs, float32, [samples, ...]; and class numbers, int64, [samples], or numbers, float32, [samples, numbers]."""


class Part(Protocol):
    """Samples that come in batches."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All samples in their order; the last batch may be smaller."""
        ...

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """All samples from batch `start` on, in an order that seed and epoch alone decide."""
        ...


@dataclass(frozen=True)
class IndexedPart:
    """Samples that are available by their number."""

    rows: Tensor  # their numbers
    take: Callable[[Tensor], Batch]
    order: Callable[[int, int, int], Tensor] = shuffled

    def __len__(self) -> int:
        return len(self.rows)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All samples in their order."""
        yield from self._batches(self.rows, batch_size)

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Samples from batch `start` on, in this epoch's order."""
        order = self.order(len(self.rows), seed, epoch)
        yield from self._batches(self.rows[order[start * batch_size :]], batch_size)

    def _batches(self, rows: Tensor, batch_size: int) -> Iterator[Batch]:
        for batch in torch.split(rows, batch_size) if len(rows) else ():
            yield self.take(batch)


@dataclass(frozen=True)
class Stream:
    """A part of table files that are larger than memory; one window of rows is in memory at a time.

    An epoch reads the groups of rows in random order, and shuffles each window. The number of rows that a group
    contributes is known without reading it, so a run that continues in the middle of an epoch skips whole groups.
    """

    files: TableFiles
    preprocessing: Preprocessing
    part_of_rows: np.ndarray  # int8, of all rows; see `Parts.of_rows`
    part: int

    def __len__(self) -> int:
        return sum(self._counts)

    @cached_property
    def _counts(self) -> list[int]:
        return [len(self._rows(group.first, group.rows)) for group in self.files.groups]

    def _rows(self, first: int, count: int) -> np.ndarray:
        """The places of this part's rows among `count` rows that begin with number `first`."""
        return np.flatnonzero(self.part_of_rows[first : first + count] == self.part)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All samples in their order."""
        yield from _rebatched((batch for group in self.files.groups for batch in self._read(group)), batch_size)

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Samples from batch `start` on, in this epoch's order."""
        order = np.random.default_rng(mixed(seed, epoch)).permutation(len(self.files.groups)).tolist()
        skip = start * batch_size
        while order and skip >= self._counts[order[0]]:
            skip -= self._counts[order.pop(0)]

        def pieces() -> Iterator[Batch]:
            for place, group in enumerate(order):
                yield from self._read(self.files.groups[group], (seed, epoch), 0 if place else skip)

        yield from _rebatched(pieces(), batch_size)

    def _read(self, group: Group, shuffle: tuple[int, int] | None = None, skip: int = 0) -> Iterator[Batch]:
        """A group window by window, shuffled by (seed, epoch), without the first `skip` rows."""
        inputs, target = self.preprocessing.inputs, self.preprocessing.target
        assert isinstance(inputs, TableInputs)
        first = group.first
        for table in group.tables([*(column.name for column in inputs.columns), *target.names]):
            rows = self._rows(first, table.num_rows)
            if shuffle is not None:
                rows = np.random.default_rng(mixed(*shuffle, first)).permutation(rows)
            first += table.num_rows
            if skip < len(rows):
                chosen = table.take(rows[skip:])
                yield torch.from_numpy(inputs.apply(chosen)), target.encoded([chosen[name] for name in target.names])
            skip = max(0, skip - len(rows))


def _rebatched(pieces: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Pieces of any size as batches of one size; the last may be smaller."""
    rest: Batch | None = None
    for x, y in pieces:
        if rest is not None:
            x, y = torch.cat([rest[0], x]), torch.cat([rest[1], y])
        end = len(x) // batch_size * batch_size
        if end:
            yield from zip(torch.split(x[:end], batch_size), torch.split(y[:end], batch_size), strict=True)
        rest = x[end:], y[end:]
    if rest is not None and len(rest[0]):
        yield rest
