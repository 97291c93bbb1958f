"""What is refused, with its name and value; a training that fails says why, and leaves the estimator as it was."""

import math
import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification

from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor
from sigmoidcore.training_loop import Training

QUICK = {"max_iter": 5, "weight_decay": 0.4, "random_state": 0}
X, y = make_classification(120, 6, random_state=0)


def test_a_diverging_training_names_the_parameters_to_change():
    rate = r"use a smaller learning_rate_init than 1e\+30"
    with pytest.raises(FloatingPointError, match=f"{rate}, or a smaller weight_decay than 0.4, or"):
        SigmoidCoreRegressor((4,), learning_rate_init=1e30, **QUICK).fit(X, y)
    with pytest.raises(FloatingPointError, match=f"{rate}, or correct"):
        SigmoidCoreRegressor((4,), learning_rate_init=1e30, **{**QUICK, "weight_decay": 0}).fit(X, y)
    with pytest.raises(FloatingPointError, match=r"no weight decay of .* a smaller learning_rate"):
        SigmoidCoreClassifier((8,), learning_rate_init=1e30, max_iter=3, random_state=0).fit(X, y)


def test_a_decay_that_diverges_is_not_chosen():
    model = SigmoidCoreClassifier((8, 8), learning_rate_init=0.3, max_iter=50, random_state=0)
    with pytest.raises(FloatingPointError):
        clone(model).set_params(weight_decay=8.0).fit(X, y)
    assert model.fit(X, y).weight_decay_ < 8
    assert model.score(X, y) > 0.9


def assert_unchanged(model, wrong, training):
    """With wrong parameters the training fails; with the former parameters the estimator is the same, to the bit."""
    before, parameters = pickle.dumps(model), model.get_params()
    model.set_params(**wrong)
    with pytest.raises((ValueError, FloatingPointError, MemoryError)):
        training()
    model.set_params(**parameters)
    assert pickle.dumps(model) == before


WRONG = [{"tolerance": 0.5}, {"class_weight": {5: 1}}, {"random_state": "x"}, {"learning_rate_init": 1e30}]


@pytest.mark.parametrize("wrong", [*WRONG, {"weight_decay": "auto", "learning_rate_init": 1e30}])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(wrong):
    model = SigmoidCoreClassifier((8,), **QUICK).fit(X, y)
    other = np.random.RandomState(0).normal(size=(90, 4)), np.arange(90) % 3
    assert_unchanged(model, wrong, lambda: model.fit(*other))


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"weight_decay": "auto"}])
def test_an_error_during_training_leaves_the_estimator_as_it_was(settings, monkeypatch):
    model = SigmoidCoreClassifier((8,), **{**QUICK, **settings}).fit(X, y)
    step, calls = Training.step, []

    def failing(*arguments, **options):
        calls.append(step(*arguments, **options))
        if len(calls) == 15:
            raise MemoryError
        return calls[-1]

    monkeypatch.setattr(Training, "step", failing)
    assert_unchanged(model, {}, lambda: model.fit(X, y))


FLOWERS, SPECIES = load_iris(return_X_y=True)
LABELS = np.eye(3, dtype=int)[SPECIES]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": ()}, r"hidden_layer_sizes .* got \(\)"),
        ({"hidden_layer_sizes": (4, 0)}, r"hidden_layer_sizes .* got \(4, 0\)"),
        ({"max_iter": 0}, "max_iter == 0, must be >= 1"),
        ({"batch_size": 0}, "batch_size == 0, must be >= 1"),
        ({"learning_rate_init": 0}, "learning_rate_init == 0, must be > 0"),
        ({"weight_decay": "much"}, "weight_decay must be \"auto\" or a number, got 'much'"),
        ({"weight_decay": None}, "weight_decay must be an instance of float, not NoneType"),
        ({"tol": -1}, "tol == -1, must be >= 0"),
        ({"saturation": 0}, "saturation == 0, must be > 0"),
        ({"tolerance": math.inf}, "tolerance == inf, must be < inf"),
        ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction == 1.5, must be < 1"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "raise validation_fraction"),
        ({"class_weight": {0: 1, 1: -1, 2: 1}}, "class_weight .* at least 0, got {0: 1, 1: -1, 2: 1}"),
    ],
)
def test_an_invalid_parameter_is_named_with_its_value(parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SigmoidCoreClassifier(**{"hidden_layer_sizes": (4,), "max_iter": 5, **parameters}).fit(FLOWERS, SPECIES)


def test_useless_weights_and_wrong_targets_are_refused():
    with pytest.raises(ValueError, match=r"at least one non-zero|all sample weights are 0"):
        SigmoidCoreClassifier((4,)).fit(FLOWERS, SPECIES, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match=r"y should be a 1d array, got an array of shape \(150, 3\)"):
        SigmoidCoreClassifier((4,)).fit(FLOWERS, LABELS)
    with pytest.raises(ValueError, match=r"give y.toarray\(\)"):
        SigmoidCoreRegressor((4,)).fit(FLOWERS, sparse.csr_matrix(LABELS))
