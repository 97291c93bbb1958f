"""`SigmoidCoreClassifier` and `SigmoidCoreRegressor`: networks of cores in place of scikit-learn's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from sigmoidcore.estimators.base import SigmoidCoreEstimator
from sigmoidcore.estimators.data import Array, Table


@dataclass(eq=False, repr=False)
class SigmoidCoreClassifier(ClassifierMixin, SigmoidCoreEstimator):  # type: ignore[misc]
    """A classifier that is a network of cores: a drop-in replacement for scikit-learn's `MLPClassifier`.

    Parameters and attributes that are not below are those of `MLPClassifier`; docs/estimators.md lists all differences.
    Inputs are standardised internally; columns of a sparse matrix with less than a tenth of numbers other than 0 (text)
    get the same largest value instead.

    Args:
        hidden_layer_sizes: number of neurons in each hidden layer.
        saturation: saturation level of the first layer, see `sigmoidcore.prepare`; "auto" is 2 for up to three
            features, else 0.5.
        tolerance: tolerance of the `sigmoidcore.Equalizer`.
        weight_decay: weight decay of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), at least 0. "auto" compares
            four values on a fifth of the samples, which takes four more trainings (on 5,000 samples at most); it is 0.4
            with fewer than 50 samples.
        class_weight: a dict of weights by class, "balanced" for weights inversely proportional to the number of
            samples, or None for equal weights.
        batch_size: largest number of samples in a step; "auto" is a fifth of the samples, from 16 to 200.
        learning_rate_init: total rate of `sigmoidcore.depth_scaled_lr`, the same for every depth and width.
        max_iter: largest number of epochs; "auto" is 200 up to 10,000 samples, then fewer, with two million samples in
            all, but at least 20 epochs.
        n_iter_no_change: epochs without an improvement by `tol` after which the rate falls, or, during the fall,
            training ends. The fall begins after half of `max_iter` at the latest.
        device: device for training and prediction. A fitted estimator is stored on the CPU.

    Attributes:
        network_: the network, float64, on the CPU, for standardised inputs. `sigmoidcore.fold` makes it plain PyTorch.
        diagnosis_: a `sigmoidcore.Diagnosis` on up to 256 training samples, which are stored, also in pickles.
        weight_decay_: weight decay of the last training.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SigmoidCoreClassifier((16, 16, 16), max_iter=20, random_state=0).fit(X, y)
        >>> model.score(X, y) > 0.95
        True
        >>> model.predict(X[[0, 60, 120]]), model.predict_proba(X).shape
        (array([0, 1, 2]), (150, 3))
    """

    class_weight: Any = None

    def predict_proba(self, X: Any) -> Array:
        """Predict the probability of every class, [samples, classes], float64, in the order of `classes_`.

        The sum of a row is 1. Errors: see `predict`.
        """
        return self._outputs(X).softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`, accurate also for small probabilities."""
        return self._outputs(X).log_softmax(1).numpy()

    def _checked(self, X: Any, y: Any, weights: Any) -> Table:
        X, y, weights = super()._checked(X, y, weights)
        check_classification_targets(y)
        if self.class_weight is not None:
            by_class = compute_sample_weight(self.class_weight, y)
            if not (np.isfinite(by_class) & (by_class >= 0)).all():
                raise ValueError(f"class_weight must contain finite numbers of at least 0, got {self.class_weight!r}")
            weights = by_class if weights is None else weights * by_class
        self.classes_: Any = np.unique(y)
        return Table(X, y, weights)


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
