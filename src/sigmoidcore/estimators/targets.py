"""What a network learns: one of several classes, several labels, or numbers.

Each kind encodes y for the loss, has the loss of every sample, and makes predictions of the network's outputs.
"""

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from sigmoidcore.estimators.samples import Array, Scaling, Table


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


class Labels:
    """Any number of labels a sample, by the logistic function of each output."""

    activation = "logistic"

    def __init__(self, y: Any) -> None:
        self.outputs = int(y.shape[1])
        self.sparse = sparse.issparse(y)

    def encode(self, y: Any) -> Tensor:
        return torch.from_numpy((y.toarray() if sparse.issparse(y) else y).astype(np.float32))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.to(outputs.dtype)
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(1)

    def decode(self, outputs: Array) -> Any:
        labels = (outputs > 0).astype(np.int64)
        return sparse.csr_matrix(labels) if self.sparse else labels


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


Targets = Classes | Labels | Numbers
