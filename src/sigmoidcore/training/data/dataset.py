"""A data set that is ready for training: `load` makes it, the training loop takes its batches."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from sigmoidcore.training.data.batches import Batch, Part, in_memory
from sigmoidcore.training.data.preprocessing import Preprocessing
from sigmoidcore.training.data.splits import reshuffled
from sigmoidcore.training.data.targets import Kind, Task, task


class Learnable:
    """What every data set offers to the training loop; a subclass has `kind`, `train` and `test`."""

    kind: Kind
    train: Part
    test: Part

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
        """The batches of one epoch.

        Args:
            batch_size: samples in a batch.
            seed: of the run.
            epoch: from 0. Seed and epoch alone decide the order.
            start: number of the first batch, from 0; earlier ones are not computed.
        """
        yield from self.train.shuffled(batch_size, seed, epoch, start)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """The test samples in their order."""
        yield from self.test.in_order(batch_size)

    def probes(self, count: int) -> Batch:
        """The first training samples, at most `count`, from which slopes are prepared."""
        return next(iter(self.train.in_order(count)))


@dataclass(frozen=True)
class Data(Learnable):
    """A data set with a training part, a test part and perhaps a validation part.

    Attributes:
        name: of the set.
        train: the samples to learn from.
        test: the samples for the final score.
        kind: of the target.
        targets: names of the target columns.
        classes: their names, in the order of the outputs; empty for numbers.
        features: names of the inputs; empty for images and arrays.
        shape: of the inputs of one sample.
        preprocessing: makes inputs of new data, and predictions of outputs.
        class_counts: training samples of each class; empty for numbers.
        notes: remarks for the user, such as columns that were left out.
        validation: samples for early stopping and for the choice of options, if `load` was asked for them.
        fingerprint: digest of the values of each column; see `changes`.
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
    validation: Part | None = None
    fingerprint: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, parts: tuple[Part, Part, Part], preprocessing: Preprocessing, counts: tuple[int, ...],
        notes: tuple[str, ...], fingerprint: Mapping[str, str],
    ) -> Self:  # fmt: skip
        """A set of three parts (training, validation, test), of which the second may be empty."""
        inputs, target = preprocessing.inputs, preprocessing.target
        train, validation, test = parts
        return cls(
            name, train, test, target.kind, target.names, target.classes, inputs.features, inputs.shape, preprocessing,
            counts, notes, validation if len(validation) else None, fingerprint,
        )  # fmt: skip

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        return self.preprocessing.target.outputs

    @property
    def summary(self) -> str:
        """The target and the number of samples in one line."""
        shown = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        kind = f"{self.kind} ({shown})" if self.kind.is_class else str(self.kind)
        validation = f", {len(self.validation):,} validation" if self.validation is not None else ""
        samples = f"{len(self.train):,} training{validation} and {len(self.test):,} test samples"
        return f"target {', '.join(self.targets)}: {kind}; {samples}"

    @property
    def file_name(self) -> str:
        """The set's name with the characters that a file's name may have."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip(".-") or "data"

    def validation_batches(self, batch_size: int) -> Iterator[Batch]:
        """The validation samples in their order; none if `load` was not asked for them."""
        if self.validation is not None:
            yield from self.validation.in_order(batch_size)

    def flattened(self) -> Self:
        """The same set with each sample as a row of numbers, for a network of Linear layers."""
        return self.arranged(lambda samples: samples.flatten(1))

    def arranged(self, arrange: Callable[[Tensor], Tensor]) -> Self:
        """The same set with inputs in another shape.

        Args:
            arrange: reshapes samples, [batch, ...].
        """
        shape = tuple(arrange(torch.empty(1, *self.shape)).shape[1:])
        if shape == self.shape:
            return self
        train, test = (_Arranged(part, arrange) for part in (self.train, self.test))
        validation = None if self.validation is None else _Arranged(self.validation, arrange)
        return replace(self, train=train, test=test, validation=validation, shape=shape)


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
