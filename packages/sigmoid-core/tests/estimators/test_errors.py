"""A training that fails says why, and leaves the estimator as it was."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification

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
