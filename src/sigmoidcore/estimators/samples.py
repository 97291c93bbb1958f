"""Samples in memory, standardised, in batches: an array at once, a sparse matrix batch by batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.preprocessing import StandardScaler
from torch import Tensor

READ = 10_000
"""Rows of a sparse matrix that are dense at once, and of a prediction."""


class Scaling:
    """The mean and the deviation of every column, of the samples that it was made from.

    Args:
        X: [samples, features], an array or a sparse matrix.
        weights: of the samples, [samples], or None.
        name: of the matrix, for errors.

    Raises:
        ValueError: numbers are so large that their variance is not finite.

    Example:
        >>> Scaling(np.array([[1.0, 5.0], [3.0, 5.0]]), None, "X")(np.array([[3.0, 6.0]]))
        array([[1., 1.]])
    """

    def __init__(self, X: Any, weights: "np.ndarray[Any, Any] | None", name: str) -> None:
        # A sparse matrix is not centred as a whole, which would make it dense, but its means are known.
        with np.errstate(over="ignore", invalid="ignore"):
            scaler = StandardScaler(with_mean=not sparse.issparse(X)).fit(X, sample_weight=weights)
        self.mean = np.asarray(scaler.mean_, dtype=np.float64)
        self.deviation = np.asarray(scaler.scale_, dtype=np.float64)
        known = np.isfinite(self.mean) & np.isfinite(self.deviation)
        if not known.all():
            column = int(known.argmin())
            raise ValueError(
                f"column {column} of {name} holds numbers up to {abs(X[:, [column]]).max():.2g}, too large for their "
                "variance to be finite: correct them, leave them out, or take another unit"
            )

    def __call__(self, X: Any) -> "np.ndarray[Any, Any]":
        """The samples less the mean, over the deviation; dense, float64."""
        dense = X.toarray() if sparse.issparse(X) else X
        standardised: np.ndarray[Any, Any] = (dense - self.mean) / self.deviation
        return standardised

    def undone(self, X: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """The samples that would be standardised to these."""
        original: np.ndarray[Any, Any] = X * self.deviation + self.mean
        return original


class Samples:
    """Training samples, from which batches are taken.

    Args:
        X: [samples, features], an array or a CSR matrix.
        targets: one row, or one number, a sample.
        weights: of the samples, [samples], or None.
        scaling: of the inputs.
        device: of the batches.
    """

    def __init__(
        self, X: Any, targets: Tensor, weights: "np.ndarray[Any, Any] | None", scaling: Scaling, device: torch.device
    ) -> None:
        self.scaling = scaling
        self.device = device
        self.targets = targets.to(device)
        self.weights = None
        if weights is not None:
            self.weights = torch.as_tensor(weights / weights.mean(), dtype=torch.float32).to(device)
        self.X = X if sparse.issparse(X) else torch.as_tensor(scaling(X), dtype=torch.float32).to(device)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.targets)

    def inputs(self, rows: "np.ndarray[Any, Any]") -> Tensor:
        """The standardised inputs of some rows, [rows, features], float32."""
        if isinstance(self.X, Tensor):
            return self.X[torch.as_tensor(rows).to(self.device)]
        return torch.as_tensor(self.scaling(self.X[rows]), dtype=torch.float32).to(self.device)

    def batches(self, batch_size: int, order: "np.ndarray[Any, Any]") -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Inputs, targets and weights of batches of at most `batch_size`, as equal as can be, in the order given.

        A last batch of a few samples would move the network as far as a whole one: Adam's steps do not know the size.
        """
        for rows in np.array_split(order, -(-len(order) // batch_size)):
            at = torch.as_tensor(rows).to(self.device)
            yield self.inputs(rows), self.targets[at], None if self.weights is None else self.weights[at]
