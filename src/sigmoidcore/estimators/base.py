"""The common part of the classifier and the regressor: parameters, training, diagnosis."""

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from sigmoidcore.diagnosis.diagnose import diagnose_over
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.estimators.network import isolated, prepared
from sigmoidcore.estimators.parameters import automatic_batch_size, check_parameters, device_of, hidden_widths
from sigmoidcore.estimators.samples import ROWS, Array, Samples, Scaling, Table
from sigmoidcore.estimators.schedule import Schedule
from sigmoidcore.estimators.trainer import Trainer
from sigmoidcore.observation.process_group import Alone

PROBES = 256
"""Training samples that `prepare` and the diagnosis use."""
DECAYS = (8.0, 2.0, 0.4, 0.08)
"""Candidates of `weight_decay="auto"`. All are tried: a strong decay can stop a deep network from learning."""
DEFAULT_DECAY = 0.4
"""`weight_decay="auto"` in `partial_fit`, and with fewer than `FEWEST` samples."""
FEWEST, DECAY_FRACTION = 50, 0.2
"""Samples needed to choose the decay, and the fraction of them that the candidates are compared on."""
_MOST_SEED = 2**31 - 1
DTYPES = (np.float64, np.float32)


@dataclass(eq=False, repr=False)
class SigmoidCoreEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Training and prediction of both estimators; a subclass adds the encoding of the targets, the loss and the score.

    `SigmoidCoreClassifier` documents the parameters and attributes.
    """

    hidden_layer_sizes: Any = (100,)
    _: KW_ONLY
    saturation: Any = 0.5
    tolerance: float = 2.0
    weight_decay: Any = "auto"
    batch_size: Any = "auto"
    learning_rate_init: float = 0.03
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: Any = False
    warm_start: bool = False
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    device: Any = "cpu"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all samples.

        Args:
            X: inputs, [samples, features]: an array, a data frame or a sparse matrix of finite numbers.
            y: for a classifier the classes, [samples], of any type; for several labels an indicator matrix of 0 and 1,
                [samples, labels], dense or sparse. For a regressor finite numbers, [samples] or [samples, outputs].
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

    def predict(self, X: Any) -> Any:
        """Predict the most likely classes, or the numbers.

        Args:
            X: see `fit`.

        Returns:
            A classifier: [samples], with the dtype of `classes_`; for several labels an indicator matrix, [samples,
            labels], int64, sparse (CSR) if y was sparse. A regressor: float64, [samples] or [samples, outputs] as in
            `fit`.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: the features differ from those in `fit`, or a number is missing or infinite.

        Warns:
            RuntimeWarning: this machine does not have `device`; the CPU is used.
        """
        return self._decode(self._outputs(X))

    # --- a subclass defines these --------------------------------------------------------------------------------

    _score: ClassVar[Callable[..., Any]]
    """The score of predictions for y, with `sample_weight`; higher is better."""

    @abstractmethod
    def _check(self, table: Table, classes: Any, *, incremental: bool, first: bool) -> tuple[Table, Any]:
        """The checked samples and classes."""

    @abstractmethod
    def _learn_targets(self, table: Table, classes: Any) -> int:
        """Set the classes or the scaling of the targets; returns the number of the network's outputs."""

    @abstractmethod
    def _encode(self, y: Any) -> Tensor:
        """The targets of the loss."""

    @abstractmethod
    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every sample, [batch]."""

    @abstractmethod
    def _decode(self, outputs: Array) -> Any:
        """Predictions from the network's outputs."""

    def _strata(self, y: Any, fraction: float) -> Array | None:
        """Groups of which the same fraction is held out, or None."""
        return None

    # --- training ------------------------------------------------------------------------------------------------

    def _learn(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool, classes: Any = None) -> Self:
        """Check everything and train; an error leaves all attributes as they were."""
        check_parameters(self)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit has no validation samples: set early_stopping=False")
        before = dict(vars(self))
        try:
            first = not hasattr(self, "network_") or not (incremental or self.warm_start)
            table, classes = self._check(Table(X, y, sample_weight), classes, incremental=incremental, first=first)
            with isolated():
                self._fit(table, classes, incremental=incremental, first=first)
        except BaseException:
            self.__dict__ = before
            raise
        if self._interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        return self

    def _fit(self, table: Table, classes: Any, *, incremental: bool, first: bool) -> None:
        """Train on checked samples. Objects that attributes refer to are replaced, never modified."""
        random = check_random_state(self.random_state)
        if table.weights is not None:
            table = _weighted(table, table.weights)
        held_out = None
        if self.early_stopping:
            table, held_out = self._split(table, self.validation_fraction, random)
        if first:
            self._outputs_count = self._learn_targets(table, classes)
            self._scaling = Scaling(table.X, table.weights, "X")
        widths = (table.X.shape[1], *hidden_widths(self.hidden_layer_sizes), self._outputs_count)
        if not first and widths != self._widths:
            raise ValueError(
                f"the network has the widths {self._widths}, but these parameters and samples need {widths}: "
                "set warm_start=False to train a new one"
            )
        if self.weight_decay != "auto":
            self.weight_decay_ = float(self.weight_decay)
        elif first and (incremental or table.X.shape[0] < FEWEST):
            self.weight_decay_ = DEFAULT_DECAY
        elif first:
            interrupted = self._choose_decay(table, classes, random)
            if interrupted is not None:  # Ctrl-C: its network is the result
                parameters = self.get_params(deep=False)
                self.__dict__.update({k: v for k, v in vars(interrupted).items() if k not in parameters})
                return
        if first:
            self._new_network(table.X, widths, random)
        samples = Samples(table.X, self._encode(table.y), table.weights, self._scaling, torch.device(self.device))
        self._train(samples, held_out, random, incremental)
        rows = np.linspace(0, len(samples) - 1, min(len(samples), PROBES)).astype(np.int64)  # y may be sorted
        self._sample = samples.inputs(rows).cpu(), samples.targets.cpu()[torch.as_tensor(rows)]
        self._diagnosis: Diagnosis | None = None

    def _new_network(self, X: Any, widths: tuple[int, ...], random: np.random.RandomState) -> None:
        rows = random.permutation(X.shape[0])[:PROBES]
        inputs = torch.as_tensor(self._scaling(X[rows]), dtype=torch.float32)
        self.network_ = prepared(widths, inputs, self.saturation, random.randint(_MOST_SEED))
        self._widths = widths
        self._trainer_state: dict[str, Any] | None = None
        self.n_layers_ = len(widths)
        self.n_iter_ = 0
        self.t_ = 0
        self.loss_: float | None = None
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None

    def _choose_decay(self, table: Table, classes: Any, random: np.random.RandomState) -> Self | None:
        """Set `weight_decay_`, by the loss on held-out samples; returns an estimator that Ctrl-C interrupted."""
        table, held_out = self._split(table, DECAY_FRACTION, random)
        seed = random.randint(_MOST_SEED)
        losses: dict[float, float] = {}
        for decay in DECAYS:
            trial: Self = clone(self).set_params(
                weight_decay=decay, early_stopping=False, warm_start=False, verbose=False, random_state=seed
            )
            try:
                trial._fit(table, classes, incremental=False, first=True)
            except FloatingPointError:
                continue
            if trial._interrupted:
                return trial
            outputs = torch.from_numpy(trial._run(trial.network_, held_out.X, torch.device("cpu"), torch.float64))
            loss = np.average(trial._losses(outputs, trial._encode(held_out.y)).numpy(), weights=held_out.weights)
            if math.isfinite(loss):
                losses[decay] = float(loss)
        if not losses:
            raise FloatingPointError(
                f"the loss is not finite with any of the weight decays {', '.join(f'{d:g}' for d in DECAYS)}: "
                "use a smaller learning_rate_init"
            )
        self.weight_decay_ = min(losses, key=losses.__getitem__)
        return None

    def _split(self, table: Table, fraction: float, random: np.random.RandomState) -> tuple[Table, Table]:
        """Samples to train on, and samples that are held out."""
        arrays = [array for array in table if array is not None]
        strata = self._strata(table.y, fraction)
        parts = train_test_split(*arrays, test_size=fraction, random_state=random, stratify=strata)
        train, held_out = (Table(X, y, weights[0] if weights else None) for X, y, *weights in (parts[::2], parts[1::2]))
        if held_out.X.shape[0] < 2:
            raise ValueError(
                f"{held_out.X.shape[0]} of {table.X.shape[0]} samples are for validation, at least 2 are needed: raise "
                "validation_fraction, or set early_stopping=False"
            )
        return train, held_out

    def _train(
        self, samples: Samples, held_out: Table | None, random: np.random.RandomState, incremental: bool
    ) -> None:
        epochs = 1 if incremental else self.max_iter
        schedule = Schedule(epochs, self.tol, self.n_iter_no_change)
        batch_size = automatic_batch_size(len(samples)) if self.batch_size == "auto" else self.batch_size
        order = np.arange(len(samples))
        best: tuple[float, Any] | None = None
        self._interrupted = False
        self.loss_curve_ = list(self.loss_curve_)
        if held_out is not None:
            self.validation_scores_ = list(self.validation_scores_ or [])
        trainer = Trainer(
            self.network_,
            self._trainer_state if incremental else None,
            device=samples.device,
            lr=self.learning_rate_init,
            weight_decay=self.weight_decay_,
            tolerance=self.tolerance,
        )
        try:
            for epoch in range(epochs):
                if self.shuffle:
                    order = random.permutation(len(samples))

                def share(done: float, epoch: int = epoch) -> float:
                    return 1.0 if incremental else schedule.share(epoch + done)  # partial_fit knows no last epoch

                self._record(trainer.epoch(samples, self._losses, order, batch_size, share), len(samples))
                if held_out is not None:
                    score = self._validate(trainer.network, held_out, samples.device)
                    if best is None or score > best[0]:
                        best = score, copy.deepcopy(trainer.network.state_dict())
                schedule.after_epoch(self.loss_curve_[-1] if held_out is None else -score)
                if schedule.finished:
                    break
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            trainer.finish()
        if best is not None:
            trainer.network.load_state_dict(best[1])
        self.network_ = trainer.network
        self._trainer_state = trainer.state() if incremental else None
        self.best_loss_ = min(self.loss_curve_, default=None) if held_out is None else None
        self.best_validation_score_ = None if best is None else best[0]

    def _record(self, loss: float, samples: int) -> None:
        self.loss_ = loss
        self.loss_curve_.append(loss)
        self.n_iter_ += 1
        self.t_ += samples
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")

    def _validate(self, network: torch.nn.Module, held_out: Table, device: torch.device) -> float:
        predictions = self._decode(self._run(network, held_out.X, device, torch.float32))
        score = float(self._score(held_out.y, predictions, sample_weight=held_out.weights))
        assert self.validation_scores_ is not None
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        return score

    # --- the fitted network --------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Array:
        """The network's outputs, [samples, outputs], float64."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        try:
            device = device_of(self.device)
        except ValueError as error:
            warnings.warn(
                f'{error}. Predictions are computed on the CPU; set_params(device="cpu") avoids this warning',
                RuntimeWarning,
                stacklevel=3,
            )
            device = torch.device("cpu")
        if device.type == "cpu":
            return self._run(self.network_, X, device, torch.float64)
        return self._run(copy.deepcopy(self.network_).to(device, torch.float32), X, device, torch.float32)

    def _run(self, network: torch.nn.Module, X: Any, device: torch.device, dtype: torch.dtype) -> Array:
        network.eval()
        with isolated(gradients=False):
            parts = [
                network(torch.as_tensor(self._scaling(X[start : start + ROWS]), dtype=dtype).to(device))
                for start in range(0, X.shape[0], ROWS)
            ]
        return torch.cat(parts).to("cpu", torch.float64).numpy()

    @property
    def diagnosis_(self) -> Diagnosis:
        """A diagnosis of the network on up to 256 training samples; computed at the first access.

        Raises:
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        if self._diagnosis is None:
            inputs, targets = self._sample
            network = copy.deepcopy(self.network_).to(torch.float32)
            with isolated():
                self._diagnosis = diagnose_over(Alone(), network, inputs, targets, self._mean_loss)
        return self._diagnosis

    def _mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of the diagnosis: a method, because it is pickled with it."""
        return self._losses(outputs, targets).mean()

    def __sklearn_tags__(self) -> Any:
        """The estimator's properties for scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _checked(self, table: Table, *, first: bool, **options: Any) -> Table:
        """The table as checked arrays; a single column of targets has one dimension."""
        X, y = validate_data(
            self, table.X, table.y, accept_sparse="csr", multi_output=True, dtype=DTYPES, reset=first, **options
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        weights = table.weights
        if weights is not None:
            weights = _check_sample_weight(weights, X, dtype=np.float64, ensure_non_negative=True)
        return Table(X, y, weights)


def _weighted(table: Table, weights: Array) -> Table:
    """The samples with a positive weight; the largest becomes 1, because the sum of weights may overflow."""
    positive = weights > 0
    if not positive.any():
        raise ValueError("all sample weights are 0: there is nothing to learn from")
    return Table(table.X[positive], table.y[positive], weights[positive] / weights.max())
