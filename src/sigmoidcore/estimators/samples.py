"""Training samples in memory: standardised, and cut into batches."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.preprocessing import StandardScaler
from torch import Tensor

Array = np.ndarray[Any, Any]
Batch = tuple[Tensor, Tensor, Tensor | None]
"""Inputs, targets and sample weights."""

ROWS = 10_000
"""Rows of a sparse matrix that are dense at the same time, and rows of one forward pass of a prediction."""


class Table(NamedTuple):
    """Inputs, targets and sample weights (or None), after the checks and before the encoding."""

    X: Any
    y: Any
    weights: Array | None


class Scaling:
    """Standardises columns by the mean and the standard deviation of the samples that it was made from.

    A sparse matrix stays sparse until a batch of it is standardised, which `StandardScaler` cannot do.

    Raises:
        ValueError: a variance is not finite because numbers are too large.

    Example:
        >>> Scaling(np.array([[1.0, 5.0], [3.0, 5.0]]), None, "X")(np.array([[3.0, 6.0]]))
        array([[1., 1.]])
    """

    def __init__(self, X: Any, weights: Array | None, name: str) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            scaler = StandardScaler(with_mean=not sparse.issparse(X)).fit(X, sample_weight=weights)
        self.mean = np.asarray(scaler.mean_, dtype=np.float64)
        self.deviation = np.asarray(scaler.scale_, dtype=np.float64)
        finite = np.isfinite(self.mean) & np.isfinite(self.deviation)
        if not finite.all():
            column = int(finite.argmin())
            raise ValueError(
                f"column {column} of {name} contains numbers up to {abs(X[:, [column]]).max():.2g}, too large for "
                "their variance to be finite: correct them, leave them out, or use another unit"
            )

    def __call__(self, X: Any) -> Array:
        """The standardised samples; dense, float64."""
        dense = X.toarray() if sparse.issparse(X) else X
        standardised: Array = (dense - self.mean) / self.deviation
        return standardised

    def inverse(self, X: Array) -> Array:
        """The samples before they were standardised."""
        original: Array = X * self.deviation + self.mean
        return original


class Samples:
    """Training samples as tensors on a device; a sparse matrix is standardised batch by batch."""

    def __init__(self, X: Any, targets: Tensor, weights: Array | None, scaling: Scaling, device: torch.device) -> None:
        self.scaling = scaling
        self.device = device
        self.targets = targets.to(device)
        self.weights = None
        if weights is not None:
            self.weights = torch.as_tensor(weights / weights.mean(), dtype=torch.float32).to(device)
        self.X = X if sparse.issparse(X) else torch.as_tensor(scaling(X), dtype=torch.float32).to(device)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.targets)

    def inputs(self, rows: Array) -> Tensor:
        """The standardised inputs of some rows, [rows, features], float32."""
        if isinstance(self.X, Tensor):
            return self.X[torch.as_tensor(rows).to(self.device)]
        return torch.as_tensor(self.scaling(self.X[rows]), dtype=torch.float32).to(self.device)

    def batches(self, batch_size: int, order: Array) -> Iterator[Batch]:
        """Batches of at most `batch_size`, in the given order of rows, of sizes that differ by at most one.

        A last batch of a few samples would move the network as far as a full batch, because the size of Adam's steps
        does not depend on the number of samples.
        """
        for rows in np.array_split(order, -(-len(order) // batch_size)):
            index = torch.as_tensor(rows).to(self.device)
            yield self.inputs(rows), self.targets[index], None if self.weights is None else self.weights[index]

    def largest(self) -> dict[str, Tensor]:
        """The largest absolute value of every standardised column, of inputs and of numeric targets, by name."""
        parts = np.array_split(np.arange(len(self)), -(-len(self) // ROWS))
        sizes = {"X": torch.stack([self.inputs(rows).abs().amax(0) for rows in parts]).amax(0)}
        return sizes | ({"y": self.targets.abs().amax(0)} if self.targets.dim() == 2 else {})
