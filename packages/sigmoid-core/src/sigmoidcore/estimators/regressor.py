"""`SigmoidCoreRegressor`: a network of cores in place of `MLPRegressor`."""

from typing import Any

from scipy import sparse
from sklearn.base import RegressorMixin

from sigmoidcore.estimators.base import SigmoidCoreEstimator
from sigmoidcore.estimators.data import Table


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

    def _checked(self, X: Any, y: Any, weights: Any) -> Table:
        if sparse.issparse(y):
            raise ValueError("y is a sparse matrix: a regressor needs an array, give y.toarray()")
        return super()._checked(X, y, weights)
