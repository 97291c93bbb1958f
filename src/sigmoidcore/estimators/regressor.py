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

from sigmoidcore.estimators.base import Array, SigmoidCoreEstimator
from sigmoidcore.estimators.samples import Scaling


class SigmoidCoreRegressor(RegressorMixin, SigmoidCoreEstimator):  # type: ignore[misc]
    """A regressor that is a network of cores; drop-in for scikit-learn's `MLPRegressor`.

    Parameters have the names and meanings that they have there, but for those in docs/estimators.md. Inputs and targets
    are standardised inside; losses are of standardised targets.

    Args:
        hidden_layer_sizes: neurons of each hidden layer, of any widths; a number is one layer.
        saturation: saturation level of the first layer; "auto": 2 for up to three features, else 0.5. See
            `sigmoidcore.prepare`.
        tolerance: of the `sigmoidcore.Equalizer` that watches the training.
        weight_decay: of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), a number of at least 0; "auto" chooses
            one of four by the loss on a fifth of the samples, which costs four more trainings, and then trains on all.
            Below 50 samples, and in `partial_fit`, "auto" is 0.4. Where a training goes on, "auto" keeps what was
            chosen.
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
        network_: the network, float64, on the CPU; it takes standardised inputs. `sigmoidcore.fold` makes it plain.
        diagnosis_: a `sigmoidcore.Diagnosis` of it on up to 256 of the training samples, which are kept for it, in
            pickles too; made when it is asked for.
        weight_decay_: that of the last training.
        loss_: of the last epoch; None if Ctrl-C ended the first one.
        loss_curve_: mean training loss of every epoch.
        best_loss_: the lowest; None if `early_stopping`, or if there is none.
        validation_scores_: R2 on the held-out samples after every epoch; None unless `early_stopping`.
        best_validation_score_: the highest of the last training, that of the weights that are kept; None if this held
            no samples out.
        n_iter_: epochs.
        t_: samples seen.
        n_features_in_: features.
        feature_names_in_: their names, if X was a data frame with names.
        n_layers_: layers, with the inputs.
        n_outputs_: targets.
        out_activation_: "identity".

    After an error in `fit` or `partial_fit` a fitted estimator is as it was before.

    Raises:
        ValueError: from `fit` and `partial_fit`: a parameter, X or y is not what it may be.
        FloatingPointError: from these two: the loss or a weight is not finite.
        NotFittedError: from all that needs a network: nothing has been learnt yet.

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
            X: inputs, [samples, features], an array, a data frame or a sparse matrix, of finite numbers.
            y: targets, [samples] or [samples, outputs], finite numbers.
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

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One pass over these samples, at the full rate; the optimizer goes on from the pass before.

        The first samples also set scales, slopes and shifts: they should stand for those to come. A rate or a decay
        that was changed since counts from this pass on.

        Args:
            X: see `fit`.
            y: see `fit`.
            sample_weight: see `fit`.

        Returns:
            Itself.

        Raises:
            ValueError: see `fit`; or early stopping is asked for.
            FloatingPointError: see `fit`.
        """
        return self._learn(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """The predicted targets.

        Args:
            X: see `fit`.

        Returns:
            [samples] or [samples, outputs], float64, in the units of y.

        Raises:
            NotFittedError: nothing has been learnt yet.
            ValueError: X has other features than in `fit`, or a number in it is missing or infinite.

        Warns:
            RuntimeWarning: this machine has no such `device`; the CPU is used.
        """
        return self._decoded(self._outputs(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2 of `predict`, the mean of all outputs.

        Args:
            X: see `fit`.
            y: see `fit`.
            sample_weight: [samples].

        Returns:
            At most 1.

        Raises:
            NotFittedError: nothing has been learnt yet.
            ValueError: see `predict`; or y has another shape than in `fit`.
        """
        return self._scored(y, self.predict(X), sample_weight)

    # --- for the base --------------------------------------------------------------------------------------------

    def _checked(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, *, incremental: bool, first: bool
    ) -> tuple[Any, Any, Array | None, Any]:
        if sparse.issparse(y):
            raise ValueError("y is a sparse matrix: targets are numbers in an array, so give y.toarray()")
        X, y = validate_data(
            self,
            X,
            y,
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
        return X, y, self._weights(X, sample_weight), None

    def _learn_targets(self, y: Array, weights: Array | None, classes: Any) -> int:
        self._target_scaling = Scaling(_columns(y), weights, "y")
        self._one_column = y.ndim == 1
        self.n_outputs_ = 1 if self._one_column else y.shape[1]
        self.out_activation_ = "identity"
        return int(self.n_outputs_)

    def _encoded(self, y: Array) -> Tensor:
        return torch.as_tensor(self._target_scaling(_columns(y)), dtype=torch.float32)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets.to(outputs.dtype)).square().mean(1) / 2

    def _decoded(self, outputs: Array) -> Any:
        found = self._target_scaling.undone(outputs)
        return found[:, 0] if self._one_column else found

    def _scored(self, y: Array, predictions: Array, weights: Array | None) -> float:
        return float(r2_score(y, predictions, sample_weight=weights))


def _columns(y: Array) -> Array:
    return y[:, None] if y.ndim == 1 else y
