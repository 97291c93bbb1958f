"""A data set that is ready for training, and its parts, in batches from memory, from image files or from a stream.

Seed and epoch alone decide the order of an epoch, and a part gives its batches from any position on. That is the whole
state of an interrupted epoch, so a loader with a state of its own (torchdata's StatefulDataLoader) is not needed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.preprocessing import Preprocessing, TableInputs
from sigmoidcore.training.data.readers import RowGroup, TableFiles
from sigmoidcore.training.data.splits import mixed, reshuffled, shuffled
from sigmoidcore.training.data.targets import Kind, Task, task
from sigmoidcore.language import _

Batch = tuple[Tensor, Tensor]
"""Inputs, float32, [samples, ...]; and class numbers, int64, [samples], or numbers, float32, [samples, numbers]."""


@dataclass(frozen=True)
class IndexedPart:
    """Samples that are available by their number."""

    rows: Tensor  # their numbers
    take: Callable[[Tensor], Batch]
    order: Callable[[int, int, int], Tensor] = shuffled

    def __len__(self) -> int:
        return len(self.rows)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All samples in their order; the last batch may be smaller."""
        yield from self._batches(self.rows, batch_size)

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Samples from batch `start` on, in an order that seed and epoch alone decide."""
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

    def _read(self, group: RowGroup, shuffle: tuple[int, int] | None = None, skip: int = 0) -> Iterator[Batch]:
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


Part = IndexedPart | Stream
"""Samples that come in batches."""
PROBES = 256
"""Training samples from which slopes are prepared, and with which the gradient is measured."""


class Learnable:
    """What every data set offers to the training loop; a subclass has `kind`, `train` and `test`."""

    kind: Kind
    train: Part
    test: Part
    validation: Part | None = None

    @property
    def task(self) -> Task:
        """Loss and metric."""
        return task(self.kind)

    @property
    def metric_name(self) -> str:
        """The name of `metric`: accuracy (in percent) or R2."""
        return self.task.metric_name

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch: cross-entropy, or mean squared error of the scaled numbers."""
        return self.task.loss_fn(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of all test samples together; higher is better."""
        return self.task.metric(outputs, targets)

    def steps(self, batch_size: int) -> int:
        """Number of batches in an epoch; the last one may be smaller."""
        return -(-len(self.train) // batch_size)

    def train_batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch (from 0) from batch `start` on; seed and epoch alone decide their order."""
        yield from self._arranged(self.train.shuffled(batch_size, seed, epoch, start))

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """The test samples in their order."""
        yield from self._arranged(self.test.in_order(batch_size))

    def validation_batches(self, batch_size: int) -> Iterator[Batch]:
        """The validation samples in their order; none if `load` was not asked for them."""
        if self.validation is not None:
            yield from self._arranged(self.validation.in_order(batch_size))

    def probes(self, count: int = PROBES) -> Batch:
        """The first training samples, at most `count`, from which slopes are prepared."""
        return next(self._arranged(self.train.in_order(count)))

    def _arranged(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return batches


@dataclass(frozen=True)
class Data(Learnable):
    """A data set with a training part, a test part and perhaps a validation part.

    Attributes:
        name: of the set.
        train: the samples to learn from.
        test: the samples for the final score.
        preprocessing: makes inputs of new data, and predictions of outputs.
        class_counts: training samples of each class; empty for numbers.
        notes: remarks for the user, such as columns that were left out.
        validation: samples for early stopping and for the choice of options, if `load` was asked for them.
        fingerprint: digest of the values of each column; see `changes`.
        arrange: reshapes the inputs of a batch; see `arranged`.
    """

    name: str
    train: Part
    test: Part
    preprocessing: Preprocessing
    class_counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    validation: Part | None = None
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    arrange: Callable[[Tensor], Tensor] | None = None

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """Of the target."""
        return self.preprocessing.target.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the outputs; empty for numbers."""
        return self.preprocessing.target.classes

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs; empty for images and arrays."""
        return self.preprocessing.inputs.features

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the inputs of one sample."""
        shape = self.preprocessing.inputs.shape
        return shape if self.arrange is None else tuple(self.arrange(torch.empty(1, *shape)).shape[1:])

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        return self.preprocessing.target.outputs

    @property
    def summary(self) -> str:
        """The target and the number of samples in one line."""
        shown = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        kinds = {
            Kind.TWO_CLASSES: _("two classes ({names})", names=shown),
            Kind.CLASSES: _("several classes ({names})", names=shown),
            Kind.NUMBER: _("a number"),
            Kind.NUMBERS: _("several numbers"),
        }
        values = {"target": ", ".join(self.preprocessing.target.names), "kind": kinds[self.kind]}
        values |= {"train": f"{len(self.train):,}", "test": f"{len(self.test):,}"}
        if self.validation is None:
            return _("target {target}: {kind}; {train} training and {test} test samples", **values)
        values["validation"] = f"{len(self.validation):,}"
        return _("target {target}: {kind}; {train} training, {validation} validation and {test} test samples", **values)

    @property
    def file_name(self) -> str:
        """The set's name with the characters that a file's name may have."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip(".-") or "data"

    def flattened(self) -> Self:
        """The same set with each sample as a row of numbers, for a network of Linear layers."""
        return self.arranged(lambda samples: samples.flatten(1))

    def arranged(self, arrange: Callable[[Tensor], Tensor]) -> Self:
        """The same set with inputs in another shape; `arrange` reshapes samples, [batch, ...]."""
        before = self.arrange
        return replace(self, arrange=arrange if before is None else lambda samples: arrange(before(samples)))

    def _arranged(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        arrange = self.arrange
        return batches if arrange is None else ((arrange(x), y) for x, y in batches)


@dataclass(frozen=True)
class Split(Learnable):
    """A classification set in memory. Pixels are float32, with mean 0 and standard deviation 1 over the training set.

    Mean and deviation are those of all pixels together: pixels have one unit, and a border pixel that is rarely set
    should not become as large as a central one.

    Attributes:
        name: of the set.
        train_x: shape [samples, features].
        train_y: class numbers, shape [samples], int64.
        test_x: like train_x, scaled with the training set's mean and deviation.
        test_y: like train_y.
        classes: number of classes.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """Of the target."""
        return Kind.TWO_CLASSES if self.classes == 2 else Kind.CLASSES

    @property
    def train(self) -> Part:  # type: ignore[override]
        """The training samples."""
        return in_memory(self.train_x, self.train_y, reshuffled)

    @property
    def test(self) -> Part:  # type: ignore[override]
        """The test samples."""
        return in_memory(self.test_x, self.test_y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the inputs of one sample."""
        return tuple(self.train_x.shape[1:])

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        return self.classes


def in_memory(x: Tensor, y: Tensor, order: Callable[[int, int, int], Tensor] = shuffled) -> IndexedPart:
    """A part with all these samples: inputs [samples, ...] and targets."""
    return IndexedPart(torch.arange(len(x)), lambda rows: (x[rows], y[rows]), order)
