"""The common part of the classifier and the regressor: parameters, training, diagnosis."""

import copy
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_regressor
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from sigmoidcore.calibration.calibrate import prepare
from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.estimators.data import Classes, Numbers, Samples, Scaling, Table, Targets
from sigmoidcore.estimators.parameters import automatic_batch_size, automatic_epochs, check_parameters, hidden_widths
from sigmoidcore.nn.networks import Chain
from sigmoidcore.training_loop import Schedule, Training, adamw
from unstuck.diagnosis import Diagnosis, judged
from unstuck.measure.measurement import Subject
from unstuck.measure.one_batch import measure
from unstuck.observation.process_group import Alone

PROBES = 256  # training samples that `prepare` and the diagnosis use
DECAYS = (8.0, 2.0, 0.4, 0.08)  # candidates of "auto", all tried: a strong decay can stop a deep network from learning
DEFAULT_DECAY, FEWEST, DECAY_FRACTION = 0.4, 50, 0.2  # "auto" with fewer samples; the fraction that compares candidates
MOST_COMPARED = 5_000  # samples that the candidates are compared on; of more, a random part
ROWS = 10_000  # rows of one forward pass of a prediction
DTYPES = np.float64, np.float32
Random = np.random.RandomState
_GLOBAL_GENERATOR = threading.Lock()


@dataclass(eq=False, repr=False)
class SigmoidCoreEstimator(BaseEstimator):  # type: ignore[misc]
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
            with _isolated():
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
        outputs = self._outputs(X)  # it checks that there are targets
        return self._targets.decode(outputs.numpy())

    def __sklearn_tags__(self) -> Any:
        """The estimator's properties for scikit-learn."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

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
        fraction = self.validation_fraction
        table, held_out = self._split(table, fraction, random) if self.early_stopping else (table, None)
        self._targets: Targets = Numbers(table) if is_regressor(self) else Classes(self.classes_)
        self._scaling = Scaling(table.X, table.weights)
        widths = (table.X.shape[1], *hidden_widths(self.hidden_layer_sizes), self._targets.outputs)
        if self.weight_decay != "auto":
            self.weight_decay_ = float(self.weight_decay)
        else:
            self.weight_decay_ = DEFAULT_DECAY if table.X.shape[0] < FEWEST else self._best_decay(table, random)
        inputs = self._scaling(table.X[random.permutation(table.X.shape[0])[:PROBES]]).float()
        network = _prepared(widths, inputs, self.saturation, random.randint(2**31 - 1))
        self.n_layers_, self.n_outputs_, self.out_activation_ = len(widths), widths[-1], self._targets.activation
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
        part: float = min(1.0, MOST_COMPARED / table.X.shape[0])
        if part < 1:
            _, table = self._split(table, part, random)
        table, held_out = self._split(table, DECAY_FRACTION, random)
        same = {"early_stopping": False, "verbose": False, "random_state": random.randint(2**31 - 1)}
        losses: dict[float, float] = {}
        for decay in DECAYS:
            trial: Self = copy.copy(self).set_params(weight_decay=decay, **same)
            try:
                trial._fit(table)
            except FloatingPointError:
                continue
            if trial._interrupted:
                raise KeyboardInterrupt
            each = trial._targets.losses(trial._run(trial.network_, held_out.X), trial._targets.encode(held_out.y))
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
        batch_size = automatic_batch_size(len(samples)) if self.batch_size == "auto" else self.batch_size
        network.to(samples.device)
        optimizer = adamw(network, self.learning_rate_init, self.weight_decay_)
        equalizer = Equalizer(network, optimizer, tolerance=self.tolerance, process_group=Alone())
        say: Callable[[str], None] = print if self.verbose else lambda text: None
        curve: list[float] = []
        scores: list[float] = []
        best: Any = None

        def batches() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
            order = random.permutation(len(samples)) if self.shuffle else np.arange(len(samples))
            return samples.batches(batch_size, order)

        def after_epoch(loss: float) -> float:
            nonlocal best
            curve.append(loss)
            say(f"Iteration {len(curve)}, loss = {loss:.8f}")
            if held_out is None:
                return loss
            predictions = self._targets.decode(self._run(network, held_out.X).numpy())
            score_of = r2_score if is_regressor(self) else accuracy_score
            scores.append(float(score_of(held_out.y, predictions, sample_weight=held_out.weights)))
            say(f"Validation score: {scores[-1]:f}")
            if scores[-1] > max(scores[:-1], default=-math.inf):
                best = copy.deepcopy(network.state_dict())
            return -scores[-1]

        schedule = Schedule(epochs, self.tol, self.n_iter_no_change)
        training = Training(network, self._loss, optimizer, equalizer)
        self._interrupted = False
        try:
            training.run(batches, len(samples), schedule, on_epoch=after_epoch)
        except KeyboardInterrupt:
            self._interrupted = True
        except FloatingPointError as error:
            weaker = f", or a smaller weight_decay than {self.weight_decay_:g}" if self.weight_decay_ > 0 else ""
            raise FloatingPointError(
                f"{error}: use a smaller learning_rate_init than {self.learning_rate_init:g}{weaker}, or correct "
                "numbers in X or y that are far from the others"
            ) from None
        network.to("cpu", torch.float64).eval()
        if best is not None:
            network.load_state_dict(best)
        self.network_ = network
        self.loss_curve_, self.n_iter_ = curve, len(curve)
        self.loss_ = curve[-1] if curve else None
        self.best_loss_ = min(curve, default=None) if held_out is None else None
        self.validation_scores_ = None if held_out is None else scores
        self.best_validation_score_ = max(scores, default=None)

    def _loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        losses = self._targets.losses(outputs, targets)
        return (losses if weights is None else losses * weights).mean()

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
        with _isolated(gradients=False):
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
            with _isolated():
                subject = Subject(network, inputs, targets, self._loss)
                self._diagnosis = judged([measure(subject, Alone())], subject)
        return self._diagnosis


def _with_weight(table: Table) -> Table:
    """The samples with a positive weight; the largest becomes 1, because the sum of weights may overflow."""
    if table.weights is None:
        return table
    if not table.weights.any():
        raise ValueError("all sample weights are 0: there is nothing to learn from")
    return table._replace(weights=table.weights / table.weights.max()).at(table.weights > 0)


def _prepared(widths: Sequence[int], inputs: Tensor, saturation: float | Literal["auto"], seed: int) -> Chain:
    """A prepared network of these widths, float32, on the CPU; the global generator stays, also among threads."""
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), SigmoidCore(fan_out, alpha=4.0, centered=True)]
        network = Chain(*layers[:-1]).to(torch.float32)
        prepare(network, inputs, saturation=saturation)
    return network


@contextmanager
def _isolated(*, gradients: bool = True) -> Iterator[None]:
    """Compute gradients or not, and on the CPU by default, whatever the caller has set."""
    # The context of a device makes every call of PyTorch slower, so it is entered only if it changes something.
    on_cpu = nullcontext() if torch.empty(0).device.type == "cpu" else torch.device("cpu")
    with torch.inference_mode(False), torch.set_grad_enabled(gradients), on_cpu:
        yield
