"""Samples in memory: inputs that are standardised and cut into batches, and two kinds of targets."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
RARE = 0.1  # share of numbers other than 0 below which a sparse matrix is very sparse, as text is


class Table(NamedTuple):
    """Inputs, targets and sample weights (or None), after the checks and before the encoding."""

    X: Any
    y: Any
    weights: Array | None

    def at(self, rows: Array) -> "Table":
        """Some of the samples."""
        return Table(self.X[rows], self.y[rows], None if self.weights is None else self.weights[rows])


class Scaling:
    """Standardises columns; a sparse matrix only batch by batch, which `StandardScaler` cannot do.

    All columns of a very sparse matrix get the same largest value instead, and a mean variance of 1: a rare word,
    standardised, would be a number of many standard deviations.
    """

    def __init__(self, X: Any, weights: Array | None) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the loss is not finite then
            scaler = StandardScaler(with_mean=not sparse.issparse(X)).fit(X, sample_weight=weights)
        self.mean: Array = np.asarray(scaler.mean_, dtype=np.float64)
        self.deviation: Array = np.asarray(scaler.scale_, dtype=np.float64)
        if sparse.issparse(X) and X.nnz < RARE * math.prod(X.shape):
            self.mean = np.zeros_like(self.mean)
            largest = MaxAbsScaler().fit(X).scale_
            self.deviation = largest * (math.sqrt(np.mean(scaler.var_ / largest**2)) or 1.0)

    def __call__(self, X: Any) -> Tensor:
        """The standardised samples; dense, float64."""
        return torch.from_numpy(((X.toarray() if sparse.issparse(X) else X) - self.mean) / self.deviation)


class Samples:
    """Training samples as tensors on a device; a sparse matrix is standardised batch by batch."""

    def __init__(self, table: Table, targets: Tensor, scaling: Scaling, device: torch.device) -> None:
        self.scaling, self.device, self.targets = scaling, device, targets.to(device)
        weights = table.weights
        self.weights = None if weights is None else torch.from_numpy(weights / weights.mean()).float().to(device)
        self.X = table.X if sparse.issparse(table.X) else scaling(table.X).float().to(device)

    def __len__(self) -> int:
        return len(self.targets)

    def inputs(self, rows: Array) -> Tensor:
        """The standardised inputs of some rows, [rows, features], float32."""
        if isinstance(self.X, Tensor):
            return self.X[torch.from_numpy(rows).to(self.device)]
        return self.scaling(self.X[rows]).float().to(self.device)

    def batches(self, batch_size: int, order: Array) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Inputs, targets and weights of at most `batch_size` samples; sizes of batches differ by at most one.

        A last batch of a few samples would move the network as far as a full batch, because the size of Adam's steps
        does not depend on the number of samples.
        """
        for rows in np.array_split(order, -(-len(order) // batch_size)):
            index = torch.from_numpy(rows).to(self.device)
            yield self.inputs(rows), self.targets[index], None if self.weights is None else self.weights[index]


# Kinds of targets: each encodes y for the loss, has the loss of every sample, and decodes the network's outputs.


class Classes:
    """One class a sample, by the softmax of the outputs."""

    activation = "softmax"

    def __init__(self, classes: Array) -> None:
        self.classes = classes
        self.outputs = len(classes)

    def encode(self, y: Array) -> Tensor:
        return torch.from_numpy(np.searchsorted(self.classes, y))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def decode(self, outputs: Array) -> Any:
        return self.classes[outputs.argmax(1)]


class Numbers:
    """Numbers, standardised."""

    activation = "identity"

    def __init__(self, table: Table) -> None:
        self.shape = table.y.shape[1:]
        columns = table.y.reshape(len(table.y), -1)
        self.scaling = Scaling(columns, table.weights)
        self.outputs = int(columns.shape[1])

    def encode(self, y: Array) -> Tensor:
        return self.scaling(y.reshape(len(y), -1)).float()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets.to(outputs.dtype)).square().mean(1) / 2

    def decode(self, outputs: Array) -> Any:
        return (outputs * self.scaling.deviation + self.scaling.mean).reshape(-1, *self.shape)


Targets = Classes | Numbers
