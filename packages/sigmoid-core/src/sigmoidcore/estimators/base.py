"""The common part of the classifier and the regressor: parameters, training, diagnosis."""

import copy
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_regressor
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from sigmoidcore.estimators.data import Samples, Scaling, Table, Targets
from sigmoidcore.estimators.parameters import automatic_batch_size, automatic_epochs, check_parameters, hidden_widths
from sigmoidcore.estimators.training import Schedule, Trainer, isolated, prepared
from sigmoidcore.nn.networks import Chain
from unstuck.diagnosis import Diagnosis, judged
from unstuck.measure.measurement import Subject
from unstuck.measure.one_batch import measure
from unstuck.observation import Alone

PROBES = 256
"""Training samples that `prepare` and the diagnosis use."""
DECAYS = (8.0, 2.0, 0.4, 0.08)
"""Candidates of `weight_decay="auto"`. All are tried: a strong decay can stop a deep network from learning."""
DEFAULT_DECAY, FEWEST, DECAY_FRACTION = 0.4, 50, 0.2
"""`weight_decay="auto"` with fewer samples, or on which fraction of the samples the candidates are compared."""
MOST_COMPARED = 5_000
"""Samples that the candidates are compared on; of more, a random part."""
ROWS = 10_000
"""Rows of one forward pass of a prediction."""
DTYPES = np.float64, np.float32
Random = np.random.RandomState


@dataclass(eq=False, repr=False)
class SigmoidCoreEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Training and prediction of both estimators; `SigmoidCoreClassifier` documents parameters and attributes."""

    hidden_layer_sizes: Any = (100,)
    _: KW_ONLY
    saturation: Any = 0.5
    tolerance: float = 2.0
    weight_decay: Any = "auto"
    batch_size: Any = "auto"
    learning_rate_init: float = 0.03
    max_iter: Any = "auto"
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: Any = False
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    device: Any = "cpu"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all samples; an error leaves the estimator as it was.

        Args:
            X: inputs, [samples, features]: an array, a data frame or a sparse matrix of finite numbers.
            y: a classifier's classes, [samples], of any type; a regressor's numbers, [samples] or [samples, outputs].
            sample_weight: weights, [samples], at least 0; a sample of weight 0 is left out.

        Raises:
            ValueError: a parameter, X, y or a weight is invalid.
            FloatingPointError: the loss or a weight of the network is not finite; the message names the remedy.

        Warns:
            UserWarning: Ctrl-C ended the training; the network of that moment is kept.
        """
        check_parameters(self)
        before = dict(vars(self))
        try:
            table = self._checked(X, y, sample_weight)
            with isolated():
                self._fit(_with_weight(table))
        except BaseException:
            self.__dict__ = before
            raise
        if self._interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        return self

    def predict(self, X: Any) -> Any:
        """Predict the most likely classes, with the dtype of `classes_`, or numbers, float64.

        Returns:
            [samples], or the columns of y in `fit`.
        """
        outputs = self._outputs(X).numpy()
        return self._targets.decode(outputs)

    def __sklearn_tags__(self) -> Any:
        """The estimator's properties for scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # --- training ------------------------------------------------------------------------------------------------

    @abstractmethod
    def _targets_of(self, table: Table) -> Targets:
        """The classes, or the scaling of the targets."""

    def _checked(self, X: Any, y: Any, weights: Any) -> Table:
        """The samples as arrays; a single column of targets has one dimension."""
        options: dict[str, Any] = {"multi_output": is_regressor(self), "y_numeric": is_regressor(self)}
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=DTYPES, **options)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if weights is not None:
            weights = _check_sample_weight(weights, X, dtype=np.float64, ensure_non_negative=True)
        return Table(X, y, weights)

    def _fit(self, table: Table) -> None:
        """Train on checked samples. Objects that attributes refer to are replaced, never modified."""
        random = check_random_state(self.random_state)
        held_out = None
        if self.early_stopping:
            table, held_out = self._split(table, self.validation_fraction, random)
        self._targets = self._targets_of(table)
        self._scaling = Scaling(table.X, table.weights)
        widths = (table.X.shape[1], *hidden_widths(self.hidden_layer_sizes), self._targets.outputs)
        if self.weight_decay != "auto":
            self.weight_decay_ = float(self.weight_decay)
        else:
            self.weight_decay_ = DEFAULT_DECAY if table.X.shape[0] < FEWEST else self._best_decay(table, random)
        inputs = self._scaling(table.X[random.permutation(table.X.shape[0])[:PROBES]]).float()
        network = prepared(widths, inputs, self.saturation, random.randint(2**31 - 1))
        self.n_layers_, self.n_outputs_ = len(widths), widths[-1]
        self.out_activation_ = self._targets.activation
        samples = Samples(table, self._targets.encode(table.y), self._scaling, torch.device(self.device))
        self._train(network, samples, held_out, random)
        rows = np.linspace(0, len(samples) - 1, min(len(samples), PROBES)).astype(np.int64)  # y may be sorted
        self._sample = samples.inputs(rows).cpu(), samples.targets.cpu()[torch.from_numpy(rows)]
        self._diagnosis: Diagnosis | None = None

    def _best_decay(self, table: Table, random: Random) -> float:
        """The weight decay with the lowest loss on held-out samples.

        With a part of the samples, it is divided by the ratio of their numbers: the best time scale of AdamW, in
        epochs, does not depend on the number of samples (Wang and Aitchison 2024, arXiv 2405.13698).
        """
        samples: int = table.X.shape[0]
        part = min(1.0, MOST_COMPARED / samples)
        if part < 1:
            _, table = self._split(table, part, random)
        table, held_out = self._split(table, DECAY_FRACTION, random)
        seed = random.randint(2**31 - 1)
        losses: dict[float, float] = {}
        for decay in DECAYS:
            trial: Self = copy.copy(self).set_params(
                weight_decay=decay, early_stopping=False, verbose=False, random_state=seed
            )
            try:
                trial._fit(table)
            except FloatingPointError:
                continue
            if trial._interrupted:
                raise KeyboardInterrupt
            outputs = trial._run(trial.network_, held_out.X)
            each = trial._targets.losses(outputs, trial._targets.encode(held_out.y))
            loss = float(np.average(each.numpy(), weights=held_out.weights))
            if math.isfinite(loss):
                losses[decay] = loss
        if not losses:
            raise FloatingPointError(f"no weight decay of {DECAYS} has a finite loss: use a smaller learning_rate_init")
        return part * min(losses, key=losses.__getitem__)

    def _split(self, table: Table, fraction: float, random: Random) -> tuple[Table, Table]:
        """Samples to train on, and samples that are held out."""
        options: dict[str, Any] = {"test_size": fraction, "random_state": random}
        rows, classes = np.arange(table.X.shape[0]), None if is_regressor(self) else table.y
        try:
            train, held_out = train_test_split(rows, stratify=classes, **options)
        except ValueError:  # a class is too small for both parts
            train, held_out = train_test_split(rows, **options)
        if len(held_out) < 2:
            raise ValueError("too few samples for validation: raise validation_fraction, or set early_stopping=False")
        return table.at(train), table.at(held_out)

    def _train(self, network: Chain, samples: Samples, held_out: Table | None, random: Random) -> None:
        epochs = automatic_epochs(len(samples)) if self.max_iter == "auto" else self.max_iter
        schedule = Schedule(epochs, self.tol, self.n_iter_no_change)
        batch_size = automatic_batch_size(len(samples)) if self.batch_size == "auto" else self.batch_size
        order = np.arange(len(samples))
        curve: list[float] = []
        scores: list[float] = []
        best: tuple[float, Any] | None = None
        trainer = Trainer(network, samples.device, self.learning_rate_init, self.weight_decay_, self.tolerance)
        self._interrupted = False
        try:
            while not schedule.finished:
                if self.shuffle:
                    order = random.permutation(len(samples))
                curve.append(trainer.epoch(samples, self._targets.losses, order, batch_size, schedule))
                if self.verbose:
                    print(f"Iteration {len(curve)}, loss = {curve[-1]:.8f}")
                if held_out is not None:
                    scores.append(self._validate(network, held_out))
                    if self.verbose:
                        print(f"Validation score: {scores[-1]:f}")
                    if best is None or scores[-1] > best[0]:
                        best = scores[-1], copy.deepcopy(network.state_dict())
                schedule.after_epoch(-scores[-1] if scores else curve[-1])
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            trainer.finish()
        if best is not None:
            network.load_state_dict(best[1])
        self.network_ = network
        self.loss_curve_, self.n_iter_ = curve, len(curve)
        self.loss_ = curve[-1] if curve else None
        self.best_loss_ = min(curve, default=None) if held_out is None else None
        self.validation_scores_ = None if held_out is None else scores
        self.best_validation_score_ = None if best is None else best[0]

    def _validate(self, network: Chain, held_out: Table) -> float:
        predictions = self._targets.decode(self._run(network, held_out.X).numpy())
        score_of = r2_score if is_regressor(self) else accuracy_score
        return float(score_of(held_out.y, predictions, sample_weight=held_out.weights))

    # --- the fitted network --------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Tensor:
        """The network's outputs, [samples, outputs], float64, on the CPU."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        on_cpu = torch.device(self.device).type == "cpu"
        network = self.network_ if on_cpu else copy.deepcopy(self.network_).to(self.device, torch.float32)
        return self._run(network, X)

    def _run(self, network: Chain, X: Any) -> Tensor:
        network.eval()
        like = next(network.parameters())
        with isolated(gradients=False):
            starts = range(0, X.shape[0], ROWS)
            parts = [network(self._scaling(X[start : start + ROWS]).to(like)) for start in starts]
        return torch.cat(parts).to("cpu", torch.float64)

    @property
    def diagnosis_(self) -> Diagnosis:
        """A diagnosis of the network on up to 256 training samples; computed at the first access."""
        check_is_fitted(self)
        if self._diagnosis is None:
            inputs, targets = self._sample
            network = copy.deepcopy(self.network_).to(torch.float32)
            with isolated():
                subject = Subject(network, inputs, targets, self._mean_loss)
                self._diagnosis = judged([measure(subject, Alone())], subject)
        return self._diagnosis

    def _mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._targets.losses(outputs, targets).mean()


def _with_weight(table: Table) -> Table:
    """The samples with a positive weight; the largest becomes 1, because the sum of weights may overflow."""
    if table.weights is None:
        return table
    if not table.weights.any():
        raise ValueError("all sample weights are 0: there is nothing to learn from")
    return table._replace(weights=table.weights / table.weights.max()).at(table.weights > 0)
