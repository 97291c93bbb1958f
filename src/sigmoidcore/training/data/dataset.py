"""A data set that is ready for training: `load` makes it, the training loop takes its batches."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from sigmoidcore.training.data.batches import Batch, IndexedPart, Part
from sigmoidcore.training.data.preprocessing import Preprocessing
from sigmoidcore.training.data.splits import reshuffled, shuffled
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
        yield from self._arranged(self.train.shuffled(batch_size, seed, epoch, start))

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """The test samples in their order."""
        yield from self._arranged(self.test.in_order(batch_size))

    def probes(self, count: int) -> Batch:
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
    def targets(self) -> tuple[str, ...]:
        """Names of the target columns."""
        return self.preprocessing.target.names

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
            yield from self._arranged(self.validation.in_order(batch_size))

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
