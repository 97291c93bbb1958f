"""`SigmoidCoreClassifier`: a network of cores in place of `MLPClassifier`."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from torch import Tensor, nn

from sigmoidcore.estimators.base import SigmoidCoreEstimator
from sigmoidcore.estimators.parameters import check_class_weight
from sigmoidcore.estimators.samples import Array, Table


@dataclass(eq=False, repr=False)
class SigmoidCoreClassifier(ClassifierMixin, SigmoidCoreEstimator):  # type: ignore[misc]
    """A classifier that is a network of cores: a drop-in replacement for scikit-learn's `MLPClassifier`.

    Parameters have the names and meanings of `MLPClassifier`; docs/estimators.md lists the differences. Inputs are
    standardised internally. An error in `fit` or `partial_fit` leaves a fitted estimator as it was.

    Args:
        hidden_layer_sizes: number of neurons in each hidden layer; a single number is one layer.
        saturation: saturation level of the first layer; "auto" is 2 for up to three features, else 0.5. See
            `sigmoidcore.prepare`.
        tolerance: tolerance of the `sigmoidcore.Equalizer`.
        weight_decay: weight decay of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), at least 0. "auto" compares
            four values on a fifth of the samples, which takes four more trainings; it is 0.4 in `partial_fit` and with
            fewer than 50 samples. A training that continues keeps the value that "auto" has chosen.
        class_weight: a dict of weights by class (a list of dicts for several labels), "balanced" for weights inversely
            proportional to the number of samples, or None for equal weights.
        batch_size: largest number of samples in a step; "auto" is a fifth of the samples, from 16 to 200.
        learning_rate_init: total rate of `sigmoidcore.depth_scaled_lr`, the same for every depth and width.
        max_iter: largest number of epochs.
        shuffle: whether to shuffle the samples in every epoch.
        random_state: seed or `numpy.random.RandomState` for weights, batches and held-out samples; None uses NumPy's
            global generator.
        tol: smallest improvement of the loss, or of the score with `early_stopping`.
        verbose: whether to print the loss of every epoch.
        warm_start: whether `fit` continues from the current weights.
        early_stopping: whether to hold out samples and keep the weights with the best score on them.
        validation_fraction: fraction of the samples to hold out.
        n_iter_no_change: epochs without an improvement after which the rate falls, or, during the fall, training ends.
            The fall begins after half of `max_iter` at the latest.
        device: device for training and prediction. A fitted estimator is stored on the CPU, and predicts there with a
            warning if this machine has no such device.

    Attributes:
        classes_: the classes; for several labels their numbers.
        network_: the network, float64, on the CPU, for standardised inputs. `sigmoidcore.fold` makes it plain PyTorch.
        diagnosis_: a `sigmoidcore.Diagnosis` on up to 256 training samples, which are stored, also in pickles.
        weight_decay_: weight decay of the last training.
        loss_: loss of the last epoch; None if Ctrl-C ended the first one.
        loss_curve_: mean training loss of every epoch.
        best_loss_: lowest loss; None with `early_stopping`.
        validation_scores_: score (accuracy or R2) on the held-out samples after every epoch; None without
            `early_stopping`.
        best_validation_score_: score of the weights that were kept; None without `early_stopping`.
        n_iter_: number of epochs.
        t_: number of samples seen.
        n_features_in_: number of features.
        feature_names_in_: names of the features, if X was a data frame.
        n_layers_: number of layers, with the input layer.
        n_outputs_: number of outputs of the network.
        out_activation_: "softmax", or "logistic" for several labels.

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
    _score = staticmethod(accuracy_score)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch at the full rate, and continue the optimizer of the previous call.

        The samples of the first call also set scales, slopes and shifts, so they should represent those to come. A
        change of `learning_rate_init` or `weight_decay` takes effect in the next call.

        Args:
            X: see `fit`.
            y: see `fit`.
            classes: all classes, [classes], required in the first call; for several labels one for each column of y.
            sample_weight: see `fit`.

        Returns:
            The estimator.

        Raises:
            ValueError: see `fit`; also if classes are missing or unknown, with `early_stopping`, and with
                `class_weight="balanced"`.
            FloatingPointError: see `fit`.
        """
        return self._learn(X, y, sample_weight, incremental=True, classes=classes)

    def predict_proba(self, X: Any) -> Array:
        """Predict the probability of every class.

        Returns:
            [samples, classes], float64, in the order of `classes_`; the sum of a row is 1. For several labels the
            probability of each label, [samples, labels].

        Raises:
            NotFittedError: see `predict`.
            ValueError: see `predict`.
        """
        outputs = torch.from_numpy(self._outputs(X))
        probabilities: Array = (outputs.sigmoid() if self._multilabel else outputs.softmax(1)).numpy()
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`, accurate also for small probabilities."""
        outputs = torch.from_numpy(self._outputs(X))
        logarithms: Array = (nn.functional.logsigmoid(outputs) if self._multilabel else outputs.log_softmax(1)).numpy()
        return logarithms

    # --- for the base class --------------------------------------------------------------------------------------

    def _check(self, table: Table, classes: Any, *, incremental: bool, first: bool) -> tuple[Table, Any]:
        X, y, weights = self._checked(table, first=first)
        check_classification_targets(y)
        if type_of_target(y).startswith("multiclass-multioutput"):
            raise ValueError("y has several columns of classes: fit one classifier for each column")
        if y.ndim == 2:
            _check_labels(y, classes if first else None)
        if self.class_weight is not None:
            check_class_weight(self.class_weight)
            if incremental and self.class_weight == "balanced":
                raise ValueError(
                    'class_weight="balanced" needs all samples at once; give partial_fit the dict from '
                    "sklearn.utils.compute_class_weight"
                )
            by_class = compute_sample_weight(self.class_weight, y)
            weights = by_class if weights is None else weights * by_class
        if not first:
            self._check_known(y, classes)
        elif classes is None:
            if incremental:
                raise ValueError("classes must be given in the first call of partial_fit: later samples may have more")
            classes = np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)
        return Table(X, y, weights), classes

    def _check_known(self, y: Any, classes: Any) -> None:
        if classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(f"classes={classes!r} differ from those of the first call: {self.classes_!r}")
        if (y.ndim == 2) != self._multilabel:
            now, before = ("one class", "several labels") if self._multilabel else ("several labels", "one class")
            raise ValueError(f"y has {now} a sample, and had {before} before")
        if self._multilabel and y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} labels a sample, and had {self.n_outputs_} before")
        unknown = [] if self._multilabel else np.setdiff1d(y, self.classes_).tolist()
        if unknown:
            raise ValueError(f"y has unknown classes: {unknown}; the classes are {self.classes_!r}")

    def _learn_targets(self, table: Table, classes: Any) -> int:
        y = table.y
        self._multilabel = y.ndim == 2
        self._sparse_labels = sparse.issparse(y)
        self.classes_ = unique_labels(classes)
        self.n_outputs_ = int(y.shape[1]) if self._multilabel else len(self.classes_)
        self.out_activation_ = "logistic" if self._multilabel else "softmax"
        self._check_known(y, None)
        return self.n_outputs_

    def _encode(self, y: Any) -> Tensor:
        if self._multilabel:
            dense = y.toarray() if sparse.issparse(y) else y
            return torch.from_numpy(dense.astype(np.float32))
        return torch.as_tensor(np.searchsorted(self.classes_, y), dtype=torch.int64)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._multilabel:
            each = nn.functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
            return each.sum(1)
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def _decode(self, outputs: Array) -> Any:
        if self._multilabel:
            labels = (outputs > 0).astype(np.int64)
            return sparse.csr_matrix(labels) if self._sparse_labels else labels
        return self.classes_[outputs.argmax(1)]

    def _strata(self, y: Any, fraction: float) -> Array | None:
        if y.ndim == 2:
            return None
        counts = np.unique(y, return_counts=True)[1]
        held_out = math.ceil(fraction * len(y))
        possible = counts.min() >= 2 and len(counts) <= min(held_out, len(y) - held_out)
        return y if possible else None

    def __sklearn_tags__(self) -> Any:
        """The estimator's properties for scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _check_labels(y: Any, classes: Any) -> None:
    """Check an indicator matrix, and that `classes`, if given, has one class for each of its columns."""
    other = np.setdiff1d(y.data if sparse.issparse(y) else y, [0, 1])
    if len(other):
        raise ValueError(
            f"y has several labels a sample, but contains {other[0]:g}: an indicator matrix contains only 0 and 1"
        )
    count = y.shape[1] if classes is None else len(unique_labels(classes))
    if count != y.shape[1]:
        raise ValueError(
            f"y has {y.shape[1]} labels a sample, and classes={classes!r} has {count}: give one class for each column"
        )
