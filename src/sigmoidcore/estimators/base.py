"""What the classifier and the regressor share: parameters, training, diagnosis."""

import copy
import functools
import math
import warnings
from abc import ABCMeta, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from sigmoidcore.diagnosis.diagnose import diagnose_over
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.estimators import weight_decay
from sigmoidcore.estimators.network import gradients, on_cpu, prepared
from sigmoidcore.estimators.parameters import batch_of, check, device_of, hidden_widths
from sigmoidcore.estimators.samples import READ, Samples, Scaling
from sigmoidcore.estimators.schedule import Rates
from sigmoidcore.estimators.trainer import Trainer
from sigmoidcore.observation.process_group import Alone

PREPARED = 256
"""Training samples that slopes and shifts are set from, and that a diagnosis is made with."""
_MOST_SEED = 2**31 - 1

Array = np.ndarray[Any, Any]


class SigmoidCoreEstimator(BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """See `SigmoidCoreClassifier` and `SigmoidCoreRegressor`."""

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        *,
        saturation: Any = 0.5,
        tolerance: float = 2.0,
        weight_decay: Any = "auto",
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.saturation = saturation
        self.tolerance = tolerance
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.device = device

    # --- what a subclass knows -----------------------------------------------------------------------------------

    @abstractmethod
    def _checked(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, *, incremental: bool, first: bool
    ) -> tuple[Any, Any, Array | None, Any]:
        """Samples, targets, weights and classes as they are to be learnt, from what the caller gave."""

    @abstractmethod
    def _learn_targets(self, y: Any, weights: Array | None, classes: Any) -> int:
        """Take note of classes or scales, from the first targets; returns the number of the network's outputs."""

    @abstractmethod
    def _encoded(self, y: Any) -> Tensor:
        """The targets for the loss."""

    @abstractmethod
    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every sample, [batch]."""

    @abstractmethod
    def _decoded(self, outputs: Array) -> Any:
        """Predictions, from the network's outputs."""

    @abstractmethod
    def _scored(self, y: Any, predictions: Any, weights: Array | None) -> float:
        """The score of predictions; the more, the better."""

    # --- training ------------------------------------------------------------------------------------------------

    def _learn(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool, classes: Any = None) -> Self:
        """Check everything, and train; after an error all attributes are what they were."""
        check(self)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit has no validation samples: set early_stopping=False")
        before = dict(vars(self))
        try:
            first = not hasattr(self, "network_") or not (incremental or self.warm_start)
            X, y, weights, classes = self._checked(X, y, sample_weight, classes, incremental=incremental, first=first)
            self._fit(X, y, weights, incremental=incremental, first=first, classes=classes)
        except BaseException:
            self.__dict__ = before
            raise
        if self._interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        return self

    @gradients()
    @on_cpu()
    def _fit(self, X: Any, y: Any, weights: Array | None, *, incremental: bool, first: bool, classes: Any) -> None:
        """Train on samples that have been checked. It changes no object that an attribute was before."""
        random = check_random_state(self.random_state)
        if weights is not None:
            X, y, weights = _without_zeros(X, y, weights)
        held_out = None
        if self.early_stopping:
            X, y, weights, held_out = self._split(X, y, weights, self.validation_fraction, random)
        if first:
            self._outputs_count = self._learn_targets(y, weights, classes)
            self._scaling = Scaling(X, weights, "X")
        widths = (X.shape[1], *hidden_widths(self.hidden_layer_sizes), self._outputs_count)
        if not first and widths != self._widths:
            raise ValueError(
                f"the network has the widths {self._widths}, and these parameters and samples ask for {widths}: "
                "set warm_start=False to begin anew"
            )
        if self.weight_decay != "auto":
            self.weight_decay_ = float(self.weight_decay)
        elif first and not self._choose_decay(X, y, weights, classes, random, incremental):
            return
        if first:
            self._begin(X, widths, random)
        samples = Samples(X, self._encoded(y), weights, self._scaling, torch.device(self.device))
        self._train(samples, held_out, random, incremental)
        self._keep_sample(samples)

    def _begin(self, X: Any, widths: tuple[int, ...], random: np.random.RandomState) -> None:
        """A new network, prepared with some of the samples."""
        self._widths = widths
        self._state: dict[str, Any] | None = None
        rows = random.permutation(X.shape[0])[:PREPARED]
        inputs = torch.as_tensor(self._scaling(X[rows]), dtype=torch.float32)
        self.network_ = prepared(widths, inputs, self.saturation, random.randint(_MOST_SEED))
        self.n_layers_ = len(widths)
        self.n_iter_ = 0
        self.t_ = 0
        self.loss_: float | None = None
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None

    def _choose_decay(
        self, X: Any, y: Any, weights: Array | None, classes: Any, random: np.random.RandomState, incremental: bool
    ) -> bool:
        """Set `weight_decay_`; False if that was interrupted: this is then as the training that it took place in."""
        if incremental or X.shape[0] < weight_decay.FEWEST:
            self.weight_decay_ = weight_decay.UNCHOSEN
            return True
        X, y, weights, (held_X, held_y, held_weights) = self._split(X, y, weights, weight_decay.HELD_OUT, random)
        seed = random.randint(_MOST_SEED)
        pilot = self

        def loss_with(candidate: float) -> float:
            nonlocal pilot
            pilot = clone(self).set_params(
                weight_decay=candidate, early_stopping=False, warm_start=False, verbose=False, random_state=seed
            )
            try:
                pilot._fit(X, y, weights, incremental=False, first=True, classes=classes)
            except FloatingPointError:
                return math.inf
            if pilot._interrupted:
                raise KeyboardInterrupt
            outputs = torch.from_numpy(pilot._run(pilot.network_, held_X, torch.device("cpu"), torch.float64))
            losses = pilot._losses(outputs, pilot._encoded(held_y))
            return float(np.average(losses.numpy(), weights=held_weights))

        try:
            self.weight_decay_ = weight_decay.chosen(loss_with)
        except KeyboardInterrupt:
            if not getattr(pilot, "_interrupted", False):  # while it did not train
                raise
            parameters = self.get_params(deep=False)
            self.__dict__.update({k: v for k, v in vars(pilot).items() if k not in parameters})
            return False
        return True

    def _split(self, X: Any, y: Any, weights: Array | None, fraction: float, random: np.random.RandomState) -> Any:
        """Samples for training, and inputs, targets and weights that are held out."""
        arrays = [X, y] if weights is None else [X, y, weights]
        parts = train_test_split(*arrays, test_size=fraction, random_state=random, stratify=self._strata(y, fraction))
        train, held_out = parts[::2], parts[1::2]
        if held_out[0].shape[0] < 2:
            raise ValueError(
                f"{held_out[0].shape[0]} of {X.shape[0]} samples are for validation, and 2 are needed: raise "
                "validation_fraction, or set early_stopping=False"
            )
        if weights is None:
            train, held_out = [*train, None], [*held_out, None]
        return *train, held_out

    def _strata(self, y: Any, fraction: float) -> Array | None:
        """What samples are held out evenly of."""
        return None

    def _train(self, samples: Samples, held_out: Any, random: np.random.RandomState, incremental: bool) -> None:
        epochs = 1 if incremental else self.max_iter
        rates = Rates(epochs, self.tol, self.n_iter_no_change)
        batch_size = batch_of(len(samples)) if self.batch_size == "auto" else self.batch_size
        order = np.arange(len(samples))
        best: tuple[float, Any] | None = None
        self._interrupted = False
        self.loss_curve_ = list(self.loss_curve_)
        if held_out is not None:
            self.validation_scores_ = list(self.validation_scores_ or [])
        network = copy.deepcopy(self.network_).to(device=samples.device, dtype=torch.float32)
        trainer = Trainer(
            network,
            self._losses,
            lr=self.learning_rate_init,
            weight_decay=self.weight_decay_,
            tolerance=self.tolerance,
            state=self._state if incremental else None,
        )
        try:
            for epoch in range(epochs):
                if self.shuffle:
                    order = random.permutation(len(samples))
                share = _full if incremental else functools.partial(_share, rates, epoch)
                self.loss_ = trainer.epoch(samples, order, batch_size, share)
                self.n_iter_ += 1
                self.t_ += len(samples)
                self.loss_curve_.append(self.loss_)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if held_out is None:
                    rates.after_epoch(self.loss_)
                else:
                    score = self._validated(network, held_out, samples.device)
                    if best is None or score > best[0]:
                        best = score, copy.deepcopy(network.state_dict())
                    rates.after_epoch(-score)
                if rates.finished:
                    break
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            trainer.close()
        self._state = trainer.state() if incremental else None
        if best is not None:
            network.load_state_dict(best[1])
        self.network_ = network.to(device="cpu", dtype=torch.float64).eval()
        self.best_loss_ = min(self.loss_curve_, default=None) if held_out is None else None
        self.best_validation_score_ = None if best is None else best[0]

    def _validated(self, network: torch.nn.Module, held_out: Any, device: torch.device) -> float:
        X, y, weights = held_out
        predictions = self._decoded(self._run(network, X, device, torch.float32))
        score = self._scored(y, predictions, weights)
        assert self.validation_scores_ is not None
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        return score

    # --- what has been learnt ------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Array:
        """The network's outputs, [samples, outputs], float64."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)
        try:
            device = device_of(self.device)
        except ValueError as error:
            warnings.warn(
                f'{error}. Predictions are computed on the CPU; set_params(device="cpu") says that they are to be',
                RuntimeWarning,
                stacklevel=3,
            )
            device = torch.device("cpu")
        if device.type == "cpu":
            return self._run(self.network_, X, device, torch.float64)
        return self._run(copy.deepcopy(self.network_).to(device, torch.float32), X, device, torch.float32)

    def _run(self, network: torch.nn.Module, X: Any, device: torch.device, dtype: torch.dtype) -> Array:
        network.eval()
        with torch.no_grad(), on_cpu():
            parts = [
                network(torch.as_tensor(self._scaling(X[start : start + READ]), dtype=dtype).to(device))
                for start in range(0, X.shape[0], READ)
            ]
        return torch.cat(parts).to("cpu", torch.float64).numpy()

    def _keep_sample(self, samples: Samples) -> None:
        """Keep some samples for a diagnosis, from the first to the last: they may be sorted by class."""
        rows = np.linspace(0, len(samples) - 1, min(len(samples), PREPARED)).astype(np.int64)
        self._sample = samples.inputs(rows).cpu(), samples.targets.cpu()[torch.as_tensor(rows)]
        self._diagnosis: Diagnosis | None = None

    @property
    def diagnosis_(self) -> Diagnosis:
        """A diagnosis of the network as it is, on some of the training samples; made when it is first asked for.

        Raises:
            NotFittedError: nothing has been learnt yet.
        """
        check_is_fitted(self)
        if self._diagnosis is None:
            inputs, targets = self._sample
            network = copy.deepcopy(self.network_).to(torch.float32)
            with gradients(), on_cpu():
                self._diagnosis = diagnose_over(Alone(), network, inputs, targets, self._mean_loss)
        return self._diagnosis

    def _mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a diagnosis: a method, since it is pickled with it."""
        return self._losses(outputs, targets).mean()

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn wants to know of it."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _weights(self, X: Any, sample_weight: Any) -> Array | None:
        if sample_weight is None:
            return None
        weights: Array = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return weights


def _full(part: float) -> float:
    """The rate of `partial_fit`, which knows of no end."""
    return 1.0


def _share(rates: Rates, epoch: int, part: float) -> float:
    return rates(epoch + part)


def _without_zeros(X: Any, y: Any, weights: Array) -> tuple[Any, Any, Array]:
    """The samples that count, and their weights, the largest of which is 1: the sum of those given may be infinite."""
    counted = weights > 0
    if not counted.any():
        raise ValueError("all sample weights are 0: there is nothing to learn from")
    weights = weights / weights.max()
    return (X, y, weights) if counted.all() else (X[counted], y[counted], weights[counted])
