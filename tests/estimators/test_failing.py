"""A training that fails: what it says, and that it leaves the estimator as it was."""

import math
import pickle
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification

from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor, base, weight_decay
from sigmoidcore.estimators.trainer import Trainer

QUICK = {"max_iter": 5, "weight_decay": 0.4, "random_state": 0}


@pytest.fixture(scope="module")
def samples():
    return make_classification(120, 6, random_state=0)


def outlier(X, value=1e300):
    X = X.copy()
    X[3, 2] = value
    return X


# --- what it says ----------------------------------------------------------------------------------------------------


def test_a_diverging_training_names_parameters_that_the_estimator_has(samples):
    rate = r"use a smaller learning_rate_init than 1e\+30"
    with pytest.raises(FloatingPointError, match=f"{rate}, or a smaller weight_decay than 0.4$"):
        SigmoidCoreRegressor((4,), learning_rate_init=1e30, **QUICK).fit(*samples)
    with pytest.raises(FloatingPointError, match=f"{rate}$"):
        SigmoidCoreRegressor((4,), learning_rate_init=1e30, **{**QUICK, "weight_decay": 0}).fit(*samples)


def test_a_weight_that_the_last_step_made_not_finite_is_an_error(samples, monkeypatch):
    monkeypatch.setattr(SigmoidCoreRegressor, "_losses", lambda self, outputs, _: (outputs - outputs).sqrt().mean(1))
    with pytest.raises(FloatingPointError, match="the loss or a weight is not finite"):
        SigmoidCoreRegressor((4,), batch_size=120, random_state=0).partial_fit(*samples)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_a_number_that_later_samples_have_and_no_scale_was_made_for_is_found(samples, kind):
    X, y = samples
    classifier = SigmoidCoreClassifier((8,), **QUICK).fit(kind(X), y)
    with pytest.raises(
        FloatingPointError, match=r"column 2 of X holds a number more than 3.4e\+38 standard deviations"
    ):
        classifier.partial_fit(kind(outlier(X)), y)
    regressor = SigmoidCoreRegressor((8,), **QUICK).fit(kind(X), X[:, :3])
    with pytest.raises(
        FloatingPointError, match=r"column 2 of y holds a number .*e\+20 standard deviations from the mean"
    ):
        regressor.partial_fit(kind(X), outlier(X, 1e20)[:, :3])


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("weight_decay", [0.4, "auto"])
def test_a_number_that_no_scale_can_be_made_with_is_named(samples, kind, weight_decay):
    X, y = samples
    model = SigmoidCoreRegressor((8,), **{**QUICK, "weight_decay": weight_decay})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"column 2 of X holds numbers up to 1e\+300"):
            clone(model).fit(kind(outlier(X)), y)
        with pytest.raises(ValueError, match=r"column 0 of y holds numbers up to 1e\+300"):
            clone(model).fit(kind(X), outlier(X)[:, 2])


# --- the search for a decay ------------------------------------------------------------------------------------------


def test_a_decay_that_diverges_is_not_chosen_and_no_error(samples):
    model = SigmoidCoreClassifier((8, 8), learning_rate_init=0.3, max_iter=50, random_state=0)
    with pytest.raises(FloatingPointError):
        clone(model).set_params(weight_decay=8.0).fit(*samples)
    assert model.fit(*samples).weight_decay_ < 8
    assert model.score(*samples) > 0.9


def test_where_all_decays_diverge_the_remedy_is_the_rate(samples):
    message = "none of the weight decays 8, 2, 0.4, 0.08: use a smaller learning_rate_init"
    with pytest.raises(FloatingPointError, match=message):
        SigmoidCoreClassifier((8,), learning_rate_init=1e30, max_iter=3, random_state=0).fit(*samples)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_never_the_lowest(bad):
    assert weight_decay.chosen(lambda candidate: 1.0 if candidate == 0.4 else bad) == 0.4
    with pytest.raises(FloatingPointError):
        weight_decay.chosen(lambda candidate: bad)


# --- what it leaves --------------------------------------------------------------------------------------------------

NEW = {"tolerance": 0.5}, {"saturation": -1}, {"device": "gpu"}, {"device": "cuda:99"}, {"max_iter": -1}
BEGUN = {"class_weight": {5: 1}}, {"random_state": "x"}, {"learning_rate_init": 1e30}, {"hidden_layer_sizes": (9,)}


@pytest.mark.parametrize("wrong", [*NEW, *BEGUN[:3], {"weight_decay": "auto", "learning_rate_init": 1e30}])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(samples, wrong):
    model = SigmoidCoreClassifier((8,), **QUICK).fit(*samples)
    other = np.random.RandomState(0).normal(size=(90, 4)), np.arange(90) % 3
    assert_unchanged(model, wrong, lambda: model.fit(*other))


@pytest.mark.parametrize("wrong", [*NEW, *BEGUN])
@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_a_training_that_was_to_go_on_and_fails_leaves_the_estimator_as_it_was(samples, wrong, go_on):
    model = SigmoidCoreClassifier((8,), warm_start=True, **QUICK).fit(*samples).partial_fit(*samples)
    assert_unchanged(model, wrong, lambda: getattr(model, go_on)(*samples))


def test_a_batch_that_cannot_be_learnt_is_as_if_it_had_not_come(samples):
    X, y = samples
    one, two = (SigmoidCoreRegressor((8,), **QUICK).partial_fit(X, y) for _ in range(2))
    assert_unchanged(one, {}, lambda: one.partial_fit(X, outlier(X, 1e20)[:, 2]))
    assert_unchanged(one, {}, lambda: one.partial_fit(outlier(X), y))
    np.testing.assert_array_equal(one.partial_fit(X, y).predict(X), two.partial_fit(X, y).predict(X))


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"weight_decay": "auto"}])
def test_an_error_in_the_middle_leaves_the_estimator_as_it_was(samples, settings, monkeypatch):
    model = SigmoidCoreClassifier((8,), warm_start=True, **{**QUICK, **settings}).fit(*samples)
    epoch, done = Trainer.epoch, []

    def failing(*given):
        done.append(epoch(*given))
        if len(done) == 3:
            raise MemoryError
        return done[-1]

    monkeypatch.setattr(Trainer, "epoch", failing)
    assert_unchanged(model, {}, lambda: model.fit(*samples))
    assert_unchanged(model, {"warm_start": False}, lambda: (done.clear(), model.fit(*samples)))


@pytest.mark.parametrize("weight_decay", [0.4, "auto"])
def test_ctrl_c_before_there_is_a_training_is_passed_on(samples, weight_decay, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    model = SigmoidCoreClassifier((8,), **{**QUICK, "weight_decay": weight_decay})
    before = dict(vars(model))
    monkeypatch.setattr(base, "prepared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*samples)
    assert vars(model) == before


def assert_unchanged(model, wrong, training):
    """With wrong parameters the training fails, and with those from before the estimator is the same, to the bit."""
    before, parameters = pickle.dumps(model), model.get_params()
    model.set_params(**wrong)
    with pytest.raises((ValueError, FloatingPointError, MemoryError)):
        training()
    model.set_params(**parameters)
    assert pickle.dumps(model) == before
