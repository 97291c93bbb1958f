"""`SigmoidCoreRegressor`: a network of cores in place of `MLPRegressor`."""

from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.validation import validate_data
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all samples.

        Args:
            X: inputs, [samples, features]: an array, a data frame or a sparse matrix of finite numbers.
            y: targets, [samples] or [samples, outputs], finite numbers.
            sample_weight: weights, [samples], at least 0; a sample of weight 0 is left out.

        Returns:
            The estimator.

        Raises:
            ValueError: a parameter, X, y or a weight is invalid.
            FloatingPointError: the loss or a weight of the network is not finite; the message names the cause if it is
                a number in X or y, else the remedy.

        Warns:
            UserWarning: Ctrl-C ended the training; the network of that moment is kept.
        """
        return self._learn(X, y, sample_weight, incremental=False)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch at the full rate, and continue the optimizer of the previous call.

        The samples of the first call also set scales, slopes and shifts, so they should represent those to come. A
        change of `learning_rate_init` or `weight_decay` takes effect in the next call.

        Args:
            X: see `fit`.
            y: see `fit`.
            sample_weight: see `fit`.

        Returns:
            The estimator.

        Raises:
            ValueError: see `fit`; also with `early_stopping`.
            FloatingPointError: see `fit`.
        """
        return self._learn(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Predict the targets.

        Args:
            X: see `fit`.

        Returns:
            Targets, [samples] or [samples, outputs] as in `fit`, float64.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: the features differ from those in `fit`, or a number is missing or infinite.

        Warns:
            RuntimeWarning: this machine does not have `device`; the CPU is used.
        """
        return self._decode(self._outputs(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2 of `predict`, at most 1; the mean over several targets.

        Raises:
            NotFittedError: see `predict`.
            ValueError: see `predict`; also if y has another shape than in `fit`.
        """
        return self._score(y, self.predict(X), sample_weight)

    # --- for the base class --------------------------------------------------------------------------------------

    def _check(self, table: Table, classes: Any, *, incremental: bool, first: bool) -> tuple[Table, Any]:
        if sparse.issparse(table.y):
            raise ValueError("y is a sparse matrix: a regressor needs an array, give y.toarray()")
        X, y = validate_data(
            self,
            table.X,
            table.y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=first,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        columns = _columns(y).shape[1]
        if not first and columns != self.n_outputs_:
            raise ValueError(f"y has {columns} targets a sample, and had {self.n_outputs_} before")
        return Table(X, y, self._weights(X, table.weights)), None

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

    def _score(self, y: Array, predictions: Array, weights: Array | None) -> float:
        return float(r2_score(y, predictions, sample_weight=weights))


def _columns(y: Array) -> Array:
    return y[:, None] if y.ndim == 1 else y
