"""`SigmoidCoreRegressor`: a network of cores in place of `MLPRegressor`."""

from typing import Any, Self

import torch
from scipy import sparse
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from torch import Tensor

from sigmoidcore.estimators.base import SigmoidCoreEstimator
from sigmoidcore.estimators.samples import Array, Scaling, Table


class SigmoidCoreRegressor(RegressorMixin, SigmoidCoreEstimator):  # type: ignore[misc]
    """A regressor that is a network of cores: a drop-in replacement for scikit-learn's `MLPRegressor`.

    Inputs and targets are standardised internally; losses are those of standardised targets. An error in `fit` or
    `partial_fit` leaves a fitted estimator as it was.

    The parameters and attributes are those of `SigmoidCoreClassifier`, without `class_weight` and `classes_`.
    `n_outputs_` is the number of targets, `out_activation_` is "identity", and scores are R2.

    Example:
        >>> from sklearn.datasets import make_friedman1
        >>> X, y = make_friedman1(300, random_state=0)
        >>> model = SigmoidCoreRegressor((16, 16, 16), max_iter=20, random_state=0).fit(X, y)
        >>> model.score(X, y) > 0.8
        True
        >>> model.predict(X).shape
        (300,)
    """

    _score = staticmethod(r2_score)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch at the full rate; see `SigmoidCoreClassifier.partial_fit`.

        Raises:
            ValueError: see `fit`; also with `early_stopping`.
            FloatingPointError: see `fit`.
        """
        return self._learn(X, y, sample_weight, incremental=True)

    # --- for the base class --------------------------------------------------------------------------------------

    def _check(self, table: Table, classes: Any, *, incremental: bool, first: bool) -> tuple[Table, Any]:
        if sparse.issparse(table.y):
            raise ValueError("y is a sparse matrix: a regressor needs an array, give y.toarray()")
        table = self._checked(table, first=first, y_numeric=True)
        columns = _columns(table.y).shape[1]
        if not first and columns != self.n_outputs_:
            raise ValueError(f"y has {columns} targets a sample, and had {self.n_outputs_} before")
        return table, None

    def _learn_targets(self, table: Table, classes: Any) -> int:
        self._target_scaling = Scaling(_columns(table.y), table.weights, "y")
        self._one_column = table.y.ndim == 1
        self.n_outputs_ = int(_columns(table.y).shape[1])
        self.out_activation_ = "identity"
        return self.n_outputs_

    def _encode(self, y: Array) -> Tensor:
        return torch.as_tensor(self._target_scaling(_columns(y)), dtype=torch.float32)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets.to(outputs.dtype)).square().mean(1) / 2

    def _decode(self, outputs: Array) -> Any:
        targets = self._target_scaling.inverse(outputs)
        return targets[:, 0] if self._one_column else targets


def _columns(y: Array) -> Array:
    return y[:, None] if y.ndim == 1 else y
