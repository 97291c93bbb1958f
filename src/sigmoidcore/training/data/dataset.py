"""A data set that is ready to be learnt from: `load` makes it, the training loop takes its batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sigmoidcore.training.data.parts import Batch, Part, first
from sigmoidcore.training.data.preprocessing import Preprocessing
from sigmoidcore.training.data.task import Kind, Task, task


@dataclass(frozen=True)
class Data:
    """A data set with a training part and a test part.

    Attributes:
        name: of the set.
        train: the samples that are learnt from.
        test: the others.
        kind: what the target is.
        targets: names of the target columns.
        classes: their names, in the order of the outputs; of numbers none.
        features: names of the inputs; of images none.
        shape: of one sample's inputs.
        preprocessing: makes inputs of new data, and predictions of outputs.
        class_counts: training samples of each class; of numbers none.
        notes: what a user should know, such as columns that were left out.
    """

    name: str
    train: Part
    test: Part
    kind: Kind
    targets: tuple[str, ...]
    classes: tuple[str, ...]
    features: tuple[str, ...]
    shape: tuple[int, ...]
    preprocessing: Preprocessing
    class_counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """Loss and metric."""
        return task(self.kind)

    @property
    def outputs(self) -> int:
        """How many outputs the network needs."""
        return len(self.classes) if self.kind.is_class else len(self.targets)

    @property
    def metric_name(self) -> str:
        """What `metric` is, in words: accuracy (in percent) or R2."""
        return self.task.metric_name

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch: cross-entropy, or mean squared error of the scaled numbers."""
        return self.task.loss_fn(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of all test samples together; the more, the better."""
        return self.task.metric(outputs, targets)

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has; the last one may be smaller than the others."""
        return -(-len(self.train) // batch_size)

    def train_batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            batch_size: samples a batch.
            seed: of the run.
            epoch: from 0. Seed and epoch alone decide the order.
            start: the first batch that is wanted, from 0; those before it are not computed.
        """
        yield from self.train.shuffled(batch_size, seed, epoch, start)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """The test samples in their order."""
        yield from self.test.in_order(batch_size)

    def probes(self, count: int) -> Batch:
        """The first training samples, at most `count`: what slopes are prepared with."""
        return first(self.train, count)

    def flattened(self) -> Self:
        """The same set with each sample as a row of numbers, for a network of Linear layers."""
        return self.arranged(lambda samples: samples.flatten(1))

    def arranged(self, arrange: Callable[[Tensor], Tensor]) -> Self:
        """The same set as another network takes it.

        Args:
            arrange: samples, [batch, ...], in another shape, [batch, ...].
        """
        shape = tuple(arrange(torch.empty(1, *self.shape)).shape[1:])
        if shape == self.shape:
            return self
        return replace(self, train=_Arranged(self.train, arrange), test=_Arranged(self.test, arrange), shape=shape)


@dataclass(frozen=True)
class _Arranged:
    part: Part
    arrange: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.part)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        for x, y in self.part.in_order(batch_size):
            yield self.arrange(x), y

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        for x, y in self.part.shuffled(batch_size, seed, epoch, start):
            yield self.arrange(x), y
