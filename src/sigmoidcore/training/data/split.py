"""A classification set in memory: training and test samples as tensors."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmoidcore.training.data.order import reshuffled
from sigmoidcore.training.data.task import Kind, Task, task


@dataclass(frozen=True)
class Split:
    """A classification set of images. Pixels are float32, with mean 0 and standard deviation 1 over the training set.

    Mean and deviation are those of all pixels together: pixels have one unit, and a pixel at the border that is hardly
    ever set does not become as loud as one in the middle.

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
    def kind(self) -> Kind:
        """What the target is."""
        return Kind.TWO_CLASSES if self.classes == 2 else Kind.CLASSES

    @property
    def task(self) -> Task:
        """Loss and metric."""
        return task(self.kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's inputs."""
        return tuple(self.train_x.shape[1:])

    @property
    def outputs(self) -> int:
        """How many outputs the network needs."""
        return self.classes

    @property
    def metric_name(self) -> str:
        """What `metric` is, in words."""
        return self.task.metric_name

    def loss_fn(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.task.loss_fn(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of all test samples together; the more, the better."""
        return self.task.metric(outputs, targets)

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has; the last one may be smaller than the others."""
        return -(-len(self.train_x) // batch_size)

    def train_batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, from number `start` on, in an order that seed and epoch decide alone."""
        rows = reshuffled(len(self.train_x), seed, epoch)
        for batch in torch.split(rows[start * batch_size :], batch_size):
            if len(batch):
                yield self.train_x[batch], self.train_y[batch]

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test samples in their order."""
        yield from zip(torch.split(self.test_x, batch_size), torch.split(self.test_y, batch_size), strict=True)

    def probes(self, count: int) -> tuple[Tensor, Tensor]:
        """The first training samples, at most `count`: what slopes are prepared with."""
        return self.train_x[:count], self.train_y[:count]
