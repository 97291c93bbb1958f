"""`SigmoidCoreClassifier`: a network of cores in place of `MLPClassifier`."""

import math
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from sigmoidcore.estimators.base import Array, SigmoidCoreEstimator
from sigmoidcore.estimators.parameters import check_class_weight


class SigmoidCoreClassifier(ClassifierMixin, SigmoidCoreEstimator):  # type: ignore[misc]
    """A classifier that is a network of cores; drop-in for scikit-learn's `MLPClassifier`.

    Parameters have the names and meanings that they have there, but for those in docs/estimators.md. Inputs are
    standardised inside.

    Args:
        hidden_layer_sizes: neurons of each hidden layer, of any widths; a number is one layer.
        saturation: saturation level of the first layer; "auto": 2 for up to three features, else 0.5. See
            `sigmoidcore.prepare`.
        tolerance: of the `sigmoidcore.Equalizer` that watches the training.
        weight_decay: of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), a number of at least 0; "auto" chooses
            one of four by the loss on a fifth of the samples, which costs four more trainings, and then trains on all.
            Below 50 samples, and in `partial_fit`, "auto" is 0.4. Where a training goes on, "auto" keeps what was
            chosen.
        class_weight: weights by class, a dict, of several labels a list of these; "balanced": inversely proportional to
            their samples; None: all alike.
        batch_size: samples a step, at most; "auto" is a fifth of the samples, from 16 to 200.
        learning_rate_init: the total rate of `sigmoidcore.depth_scaled_lr`, for any depth and width.
        max_iter: epochs, at most.
        shuffle: whether every epoch has its own order.
        random_state: a number, or a `numpy.random.RandomState` in the same state, fixes weights, batches and what is
            held out. None draws from NumPy's global generator, as everywhere in scikit-learn.
        tol: what counts as a better loss, or as a better score if `early_stopping`.
        verbose: whether losses are printed.
        warm_start: whether `fit` goes on from the weights that there are.
        early_stopping: whether a part of the samples is held out, and the weights of its best score are kept.
        validation_fraction: that part.
        n_iter_no_change: epochs without a better one after which the rate falls, or while it falls training ends. It
            falls after half of `max_iter` at the latest.
        device: where it trains and predicts, for `torch.device`. A fitted estimator is kept on the CPU, so that it can
            be loaded anywhere; where there is no such device, it predicts on the CPU, with a warning.

    Attributes:
        classes_: the classes; of several labels a sample their numbers.
        network_: the network, float64, on the CPU; it takes standardised inputs. `sigmoidcore.fold` makes it plain.
        diagnosis_: a `sigmoidcore.Diagnosis` of it on up to 256 of the training samples, which are kept for it, in
            pickles too; made when it is asked for.
        weight_decay_: that of the last training.
        loss_: of the last epoch; None if Ctrl-C ended the first one.
        loss_curve_: mean training loss of every epoch.
        best_loss_: the lowest; None if `early_stopping`, or if there is none.
        validation_scores_: accuracy on the held-out samples after every epoch; None unless `early_stopping`.
        best_validation_score_: the highest of the last training, that of the weights that are kept; None if this held
            no samples out.
        n_iter_: epochs.
        t_: samples seen.
        n_features_in_: features.
        feature_names_in_: their names, if X was a data frame with names.
        n_layers_: layers, with the inputs.
        n_outputs_: classes, or labels.
        out_activation_: "softmax", or "logistic" for several labels a sample.

    After an error in `fit` or `partial_fit` a fitted estimator is as it was before.

    Raises:
        ValueError: from `fit` and `partial_fit`: a parameter, X or y is not what it may be.
        FloatingPointError: from these two: the loss or a weight is not finite.
        NotFittedError: from all that needs a network: nothing has been learnt yet.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SigmoidCoreClassifier((16, 16, 16), max_iter=20, random_state=0).fit(X, y)
        >>> model.score(X, y) > 0.95
        True
        >>> model.predict(X[[0, 60, 120]]), model.predict_proba(X).shape
        (array([0, 1, 2]), (150, 3))
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        *,
        saturation: Any = 0.5,
        tolerance: float = 2.0,
        weight_decay: Any = "auto",
        class_weight: Any = None,
        batch_size: Any = "auto",
        learning_rate_init: float = 0.03,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        device: Any = "cpu",
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            saturation=saturation,
            tolerance=tolerance,
            weight_decay=weight_decay,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            device=device,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all samples.

        Args:
            X: inputs, [samples, features], an array, a data frame or a sparse matrix, of finite numbers.
            y: classes, [samples], of any type; or for several labels a sample an indicator matrix of 0 and 1, [samples,
                labels], dense or sparse.
            sample_weight: [samples], of at least 0; a sample of weight 0 is left out.

        Returns:
            Itself.

        Raises:
            ValueError: a parameter, X or y is not what it may be.
            FloatingPointError: the loss or a weight is not finite; the message names the cause, if it is a number in X
                or y, or else the remedy.

        Warns:
            UserWarning: Ctrl-C ended the training; what there is stays.
        """
        return self._learn(X, y, sample_weight, incremental=False)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One pass over these samples, at the full rate; the optimizer goes on from the pass before.

        The first samples also set scales, slopes and shifts: they should stand for those to come. A rate or a decay
        that was changed since counts from this pass on.

        Args:
            X: see `fit`.
            y: see `fit`.
            classes: all classes, [classes], needed in the first call; for several labels a sample one for each column
                of y.
            sample_weight: see `fit`.

        Returns:
            Itself.

        Raises:
            ValueError: see `fit`; or the first call has no classes, or y has others, or early stopping or balanced
                classes are asked for.
            FloatingPointError: see `fit`.
        """
        return self._learn(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: Any) -> Any:
        """The most likely class of every sample.

        Args:
            X: see `fit`.

        Returns:
            Classes, [samples], of the dtype of `classes_`; of several labels an indicator matrix, [samples, labels],
            int64, a CSR matrix if y was sparse in `fit`.

        Raises:
            NotFittedError: nothing has been learnt yet.
            ValueError: X has other features than in `fit`, or a number in it is missing or infinite.

        Warns:
            RuntimeWarning: this machine has no such `device`; the CPU is used.
        """
        return self._decoded(self._outputs(X))

    def predict_proba(self, X: Any) -> Array:
        """The probability of every class.

        Args:
            X: see `fit`.

        Returns:
            [samples, classes], float64, in the order of `classes_`, each row of sum 1; of several labels that of each
            by itself, [samples, labels].

        Raises:
            NotFittedError: nothing has been learnt yet.
            ValueError: X has other features than in `fit`, or a number in it is missing or infinite.

        Warns:
            RuntimeWarning: this machine has no such `device`; the CPU is used.
        """
        outputs = torch.from_numpy(self._outputs(X))
        found: Array = (outputs.sigmoid() if self._multilabel else outputs.softmax(1)).numpy()
        return found

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`, without loss where these are small.

        Args:
            X: see `fit`.

        Returns:
            As `predict_proba`.

        Raises:
            NotFittedError: nothing has been learnt yet.
            ValueError: X has other features than in `fit`, or a number in it is missing or infinite.

        Warns:
            RuntimeWarning: this machine has no such `device`; the CPU is used.
        """
        outputs = torch.from_numpy(self._outputs(X))
        log = nn.functional.logsigmoid if self._multilabel else lambda o: o.log_softmax(1)
        found: Array = log(outputs).numpy()
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy of `predict`; of several labels a sample the share of samples of which all are right.

        Args:
            X: see `fit`.
            y: see `fit`.
            sample_weight: [samples].

        Returns:
            From 0 to 1.

        Raises:
            NotFittedError: nothing has been learnt yet.
            ValueError: see `predict`; or y is of another kind than in `fit`.
        """
        return self._scored(y, self.predict(X), sample_weight)

    # --- for the base --------------------------------------------------------------------------------------------

    def _checked(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, *, incremental: bool, first: bool
    ) -> tuple[Any, Any, Array | None, Any]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=first,
        )
        check_classification_targets(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if type_of_target(y).startswith("multiclass-multioutput"):
            raise ValueError("y has several classes a sample in several columns: fit one classifier a column")
        if y.ndim == 2:
            _check_labels(y, classes if first else None)
        weights = self._weights(X, sample_weight)
        if self.class_weight is not None:
            check_class_weight(self.class_weight)
            if incremental and self.class_weight == "balanced":
                raise ValueError(
                    'class_weight="balanced" needs all samples at once; give partial_fit a dict, which '
                    "sklearn.utils.compute_class_weight makes"
                )
            by_class = compute_sample_weight(self.class_weight, y)
            weights = by_class if weights is None else weights * by_class
        if incremental and first and classes is None:
            raise ValueError("classes must be given in the first call of partial_fit: later samples may have others")
        if first and classes is None:  # of all samples, those of weight 0 and those held out as well
            classes = np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)
        if not first:
            self._check_known(y, classes)
        return X, y, weights, classes

    def _check_known(self, y: Any, classes: Any) -> None:
        if classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(f"classes={classes!r} is not what it was in the first call: {self.classes_!r}")
        if (y.ndim == 2) != self._multilabel:
            raise ValueError("y has one class a sample, and had several labels before, or the other way round")
        if self._multilabel and y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} labels a sample, and had {self.n_outputs_} before")
        unknown = [] if self._multilabel else np.setdiff1d(y, self.classes_).tolist()
        if unknown:
            raise ValueError(f"y has classes that were not there before: {unknown}; there were {self.classes_!r}")

    def _learn_targets(self, y: Any, weights: Array | None, classes: Any) -> int:
        self._multilabel = y.ndim == 2
        self._sparse_labels = sparse.issparse(y)
        self.classes_ = unique_labels(classes)
        if not self._multilabel:
            unknown = np.setdiff1d(y, self.classes_).tolist()
            if unknown:
                raise ValueError(f"y has classes that are not in classes: {unknown}")
        self.n_outputs_ = y.shape[1] if self._multilabel else len(self.classes_)
        self.out_activation_ = "logistic" if self._multilabel else "softmax"
        return int(self.n_outputs_)

    def _encoded(self, y: Any) -> Tensor:
        if self._multilabel:
            dense = y.toarray() if sparse.issparse(y) else y
            return torch.from_numpy(dense.astype(np.float32))
        return torch.as_tensor(np.searchsorted(self.classes_, y), dtype=torch.int64)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._multilabel:
            each = nn.functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
            return each.sum(1)
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def _decoded(self, outputs: Array) -> Any:
        if self._multilabel:
            labels = (outputs > 0).astype(np.int64)
            return sparse.csr_matrix(labels) if self._sparse_labels else labels
        return self.classes_[outputs.argmax(1)]

    def _scored(self, y: Any, predictions: Any, weights: Array | None) -> float:
        return float(accuracy_score(y, predictions, sample_weight=weights))

    def _strata(self, y: Any, fraction: float) -> Array | None:
        if y.ndim == 2:
            return None
        counts = np.unique(y, return_counts=True)[1]
        held_out = math.ceil(fraction * len(y))
        possible = counts.min() >= 2 and len(counts) <= min(held_out, len(y) - held_out)
        return y if possible else None

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn wants to know of it."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _check_labels(y: Any, classes: Any) -> None:
    """Raise a ValueError if an indicator matrix is none, or has not a column for each class, where these are given."""
    unknown = np.setdiff1d(y.data if sparse.issparse(y) else y, [0, 1])
    if len(unknown):
        raise ValueError(
            f"y has several labels a sample, but holds {unknown[0]:g}: an indicator matrix holds 0 and 1 only"
        )
    named = y.shape[1] if classes is None else len(unique_labels(classes))
    if named != y.shape[1]:
        raise ValueError(
            f"y has {y.shape[1]} labels a sample, and classes={classes!r} names {named}: give one class for each column"
        )
