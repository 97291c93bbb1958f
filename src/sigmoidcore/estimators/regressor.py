"""`SigmoidCoreRegressor`: a network of cores in place of `MLPRegressor`."""

import math
from typing import Any, Self

from scipy import sparse
from sklearn.base import RegressorMixin

from sigmoidcore.estimators.base import SigmoidCoreEstimator
from sigmoidcore.estimators.data import Numbers, Table, Targets


class SigmoidCoreRegressor(RegressorMixin, SigmoidCoreEstimator):  # type: ignore[misc]
    """A regressor that is a network of cores: a drop-in replacement for scikit-learn's `MLPRegressor`.

    Parameters and attributes are those of `SigmoidCoreClassifier`, without `class_weight` and `classes_`. Losses are
    those of standardised targets, scores are R2, `n_outputs_` is the number of targets, and `out_activation_` is
    "identity".

    Example:
        >>> from sklearn.datasets import make_friedman1
        >>> X, y = make_friedman1(300, random_state=0)
        >>> model = SigmoidCoreRegressor((16, 16, 16), max_iter=20, random_state=0).fit(X, y)
        >>> model.score(X, y) > 0.8
        True
        >>> model.predict(X).shape
        (300,)
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch at the full rate; see `SigmoidCoreClassifier.partial_fit`."""
        return self._learn(X, y, sample_weight, incremental=True)

    def _check(self, table: Table, classes: Any, *, incremental: bool, first: bool) -> Table:
        if sparse.issparse(table.y):
            raise ValueError("y is a sparse matrix: a regressor needs an array, give y.toarray()")
        columns = math.prod(table.y.shape[1:])
        if not first and columns != self.n_outputs_:
            raise ValueError(f"y has {columns} targets a sample, and had {self.n_outputs_} before")
        return table

    def _targets_of(self, table: Table) -> Targets:
        return Numbers(table)
