"""`SigmoidCoreClassifier`: a network of cores in place of `MLPClassifier`."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from torch import nn

from sigmoidcore.estimators.base import SigmoidCoreEstimator
from sigmoidcore.estimators.data import Array, Classes, Labels, Table, Targets


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
            in `partial_fit` and with fewer than 50 samples. A training that continues keeps the chosen value.
        class_weight: a dict of weights by class (a list of dicts for several labels), "balanced" for weights inversely
            proportional to the number of samples, or None for equal weights.
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

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch at the full rate, and continue the optimizer of the previous call.

        The samples of the first call also set scales, slopes and shifts, so they should represent those to come. A
        change of `learning_rate_init` or `weight_decay` takes effect in the next call.

        Args:
            X: see `fit`, as for `y` and `sample_weight`.
            y: targets.
            classes: all classes, [classes], required in the first call; for several labels one for each column of y.
            sample_weight: weights.

        Raises:
            ValueError: see `fit`; also if classes are missing or unknown, with `early_stopping`, and with
                `class_weight="balanced"`.
            FloatingPointError: see `fit`.
        """
        return self._learn(X, y, sample_weight, incremental=True, classes=classes)

    def predict_proba(self, X: Any) -> Array:
        """Predict the probability of every class, [samples, classes], float64, in the order of `classes_`.

        The sum of a row is 1; for several labels each column has the probability of its label. Errors: see `predict`.
        """
        outputs = self._outputs(X)
        return (outputs.sigmoid() if self._multilabel else outputs.softmax(1)).numpy()

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`, accurate also for small probabilities."""
        outputs = self._outputs(X)
        return (nn.functional.logsigmoid(outputs) if self._multilabel else outputs.log_softmax(1)).numpy()

    @property
    def _multilabel(self) -> bool:
        return isinstance(self._targets, Labels)

    def _check(self, table: Table, classes: Any, *, incremental: bool, first: bool) -> Table:
        y, weights = table.y, table.weights
        check_classification_targets(y)
        if type_of_target(y).startswith("multiclass-multioutput"):
            raise ValueError("y has several columns of classes: fit one classifier for each column")
        if incremental and self.class_weight == "balanced":
            raise ValueError('class_weight="balanced" needs all samples at once: give partial_fit a dict of weights')
        if self.class_weight is not None:
            by_class = compute_sample_weight(self.class_weight, y)
            if not (np.isfinite(by_class) & (by_class >= 0)).all():
                raise ValueError(f"class_weight must contain finite numbers of at least 0, got {self.class_weight!r}")
            weights = by_class if weights is None else weights * by_class
        if classes is not None:
            classes = unique_labels(classes)
            if not first and not np.array_equal(self.classes_, classes):
                raise ValueError(f"classes={classes!r} differ from those of the first call: {self.classes_!r}")
        elif not first:
            classes = self.classes_
        elif incremental:
            raise ValueError("classes must be given in the first call of partial_fit: later samples may have more")
        else:
            classes = np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)
        if not first and (y.ndim == 2) != self._multilabel:
            now, before = ("one class", "several labels") if self._multilabel else ("several labels", "one class")
            raise ValueError(f"y has {now} a sample, and had {before} before")
        _check_classes(y, classes)
        self.classes_: Any = classes
        return table._replace(weights=weights)

    def _targets_of(self, table: Table) -> Targets:
        return Labels(table.y) if table.y.ndim == 2 else Classes(self.classes_)

    def __sklearn_tags__(self) -> Any:
        """The estimator's properties for scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _check_classes(y: Any, classes: Array) -> None:
    """Check that y contains only these classes, or is an indicator matrix with a column for each."""
    if y.ndim == 1:
        unknown = np.setdiff1d(y, classes).tolist()
        if unknown:
            raise ValueError(f"y has unknown classes: {unknown}; the classes are {classes!r}")
        return
    other = np.setdiff1d(y.data if sparse.issparse(y) else y, [0, 1])
    if len(other):
        raise ValueError(
            f"y has several labels a sample, but contains {other[0]:g}: an indicator matrix contains only 0 and 1"
        )
    if y.shape[1] != len(classes):
        raise ValueError(
            f"y has {y.shape[1]} labels a sample, but there are {len(classes)} classes, {classes!r}: "
            "give one class for each column"
        )
