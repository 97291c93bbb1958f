"""Parquet files that are larger than memory: read in pieces, split, shuffled and transformed on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigmoidcore.training.data.error import DataError, needed
from sigmoidcore.training.data.order import mixed
from sigmoidcore.training.data.parts import Batch, rebatched
from sigmoidcore.training.data.preprocessing import Preprocessing, Table, picked
from sigmoidcore.training.data.tables import computable, readable
from sigmoidcore.training.data.text import check_unique

WINDOW = 65_536
"""Rows that are in memory, and shuffled, together."""


@dataclass(frozen=True)
class Group:
    """A row group: `rows` rows of a file, the first of which is number `first` of the whole set."""

    path: Path
    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Files:
    """One Parquet file, or several with the same columns.

    Attributes:
        paths: of the files, in their order.
    """

    paths: tuple[Path, ...]

    @cached_property
    def schema(self) -> Any:
        """The columns and their types, a pyarrow.Schema."""
        schemas = [self._opened(path).schema_arrow.remove_metadata() for path in self.paths]
        check_unique(self.paths[0], schemas[0].names)
        for path, schema in zip(self.paths, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise DataError(f"{path} has other columns than {self.paths[0]}: give files with the same columns")
        return schemas[0]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All row groups."""
        found, first = [], 0
        for path in self.paths:
            metadata = self._opened(path).metadata
            for number in range(metadata.num_row_groups):
                rows = metadata.row_group(number).num_rows
                found.append(Group(path, number, first, rows))
                first += rows
        return tuple(found)

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(group.rows for group in self.groups)

    @staticmethod
    def _opened(path: Path) -> Any:
        return readable(path, lambda: needed("pyarrow.parquet", "pyarrow").ParquetFile(path))

    def table(self) -> Any:
        """All of it."""
        pa = needed("pyarrow", "pyarrow")
        tables = [readable(path, lambda path=path: computable(self._opened(path).read())) for path in self.paths]
        return pa.concat_tables(tables).replace_schema_metadata() if len(tables) > 1 else tables[0]

    def pieces(
        self, names: Sequence[str], groups: Sequence[Group] | None = None, skip: int = 0
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Rows piece by piece: their numbers, and a pyarrow.Table of them with the named columns.

        Args:
            names: of the columns.
            groups: row groups in the order in which they are read; None: all, in their order.
            skip: rows that are left out in the beginning; groups among them are not read at all.

        Raises:
            DataError: a file cannot be read.
        """
        pa = needed("pyarrow", "pyarrow")
        opened: tuple[Path, Any] | None = None
        for group in self.groups if groups is None else groups:
            if skip >= group.rows:
                skip -= group.rows
                continue
            if opened is None or opened[0] != group.path:
                opened = group.path, self._opened(group.path)
            batches = opened[1].iter_batches(WINDOW, row_groups=[group.number], columns=list(names))
            first = group.first
            while (batch := readable(group.path, lambda source=batches: next(source, None))) is not None:
                dropped = min(skip, len(batch))
                skip -= dropped
                if dropped < len(batch):
                    table = computable(pa.Table.from_batches([batch.slice(dropped)]))
                    yield np.arange(first + dropped, first + len(batch)), table
                first += len(batch)


def in_test(rows: np.ndarray, seed: int, share: float) -> np.ndarray:
    """Whether rows belong to the test part: their numbers and the seed decide, by splitmix64, as chance would.

    Example:
        >>> int(in_test(np.arange(10_000), 0, 0.2).sum())
        2035
    """
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(mixed(seed))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.asarray(z < np.uint64(min(int(share * 2.0**64), 2**64 - 1)))


@dataclass(frozen=True)
class Stream:
    """The training part or the test part of Parquet files; a window of rows is in memory at a time.

    An epoch reads the row groups in an order of its own, and shuffles each window. Which rows a window has is known
    without reading, so a run goes on in the middle of an epoch at once.

    Attributes:
        files: where the rows are.
        preprocessing: makes tensors of them.
        seed: of the split.
        share: of the rows that are in the test part.
        test: whether this is the test part.
    """

    files: Files
    preprocessing: Preprocessing
    seed: int
    share: float
    test: bool

    def __len__(self) -> int:
        """How many rows this part has."""
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(int(self._ours(rows).sum()) for rows in _windows(self.files.groups))

    def _ours(self, rows: np.ndarray) -> np.ndarray:
        chosen = in_test(rows, self.seed, self.share)
        return chosen if self.test else ~chosen

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """The rows as they stand in the files."""
        yield from rebatched(self._read(self.files.groups, 0, None), batch_size)

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """The rows from batch `start` on, in this epoch's order."""
        generator = np.random.default_rng(mixed(seed, epoch))
        groups = [self.files.groups[place] for place in generator.permutation(len(self.files.groups))]
        skip, windows = start * batch_size, 0
        for rows in _windows(groups):  # whole windows that the run has had are not read again
            ours = int(self._ours(rows).sum())
            if skip < ours:
                break
            skip -= ours
            windows += 1
        yield from rebatched(self._read(groups, windows, (seed, epoch)), batch_size, skip)

    def _read(self, groups: Sequence[Group], windows: int, shuffle: tuple[int, int] | None) -> Iterator[Batch]:
        """Window by window, from number `windows` on; shuffled by (seed, epoch) if that is given."""
        inputs, target = self.preprocessing.inputs, self.preprocessing.target
        assert isinstance(inputs, Table)
        names = [*inputs.names, *target.names]
        for window, (rows, table) in enumerate(self._filled(groups, names, windows * WINDOW), windows):
            ours = np.flatnonzero(self._ours(rows))
            if shuffle is not None:
                ours = np.random.default_rng(mixed(*shuffle, window)).permutation(ours)
            if not len(ours):
                continue
            chosen = table.take(ours)
            x = torch.from_numpy(inputs.apply(picked(chosen, inputs.names)))
            y = target.encoded([chosen.column(name) for name in target.names])
            yield x, y

    def _filled(self, groups: Sequence[Group], names: Sequence[str], skip: int) -> Iterator[tuple[np.ndarray, Any]]:
        """Pieces put together to windows of WINDOW rows; the last one may be smaller."""
        pa = needed("pyarrow", "pyarrow")
        held: list[tuple[np.ndarray, Any]] = []
        count = 0
        for rows, table in self.files.pieces(names, groups, skip):
            while len(rows):
                taken = min(WINDOW - count, len(rows))
                held.append((rows[:taken], table.slice(0, taken)))
                count += taken
                rows, table = rows[taken:], table.slice(taken)
                if count == WINDOW:
                    yield np.concatenate([r for r, _ in held]), pa.concat_tables([t for _, t in held])
                    held, count = [], 0
        if held:
            yield np.concatenate([r for r, _ in held]), pa.concat_tables([t for _, t in held])


def _windows(groups: Sequence[Group]) -> Iterator[np.ndarray]:
    """The numbers of the rows of each window."""
    held: list[np.ndarray] = []
    count = 0
    for group in groups:
        first, end = group.first, group.first + group.rows
        while first < end:
            taken = min(WINDOW - count, end - first)
            held.append(np.arange(first, first + taken))
            first += taken
            count += taken
            if count == WINDOW:
                yield np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)
