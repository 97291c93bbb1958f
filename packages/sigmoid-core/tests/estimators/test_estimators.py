"""The estimators: what they learn, the data that they take, and how a training ends."""

import copy
import io
import pickle
import signal

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_friedman1
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_validate, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import sigmoidcore as sc
from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor, base, data
from sigmoidcore.estimators.parameters import automatic_epochs

QUICK = {"max_iter": 30, "weight_decay": 0.4, "random_state": 0}
BRIEF = {**QUICK, "max_iter": 5}
FLOWERS = load_iris(return_X_y=True)
CURVE = make_friedman1(200, random_state=0)


def same_weights(a, b):
    pairs = zip(a.network_.state_dict().values(), b.network_.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("sizes", [8, (16,), (8, 12, 4), (16,) * 30])
def test_a_classifier_of_any_depth_and_widths_learns(sizes):
    model = SigmoidCoreClassifier(sizes, max_iter=100, weight_decay=0.4, random_state=0).fit(*FLOWERS)
    assert model.score(*FLOWERS) > 0.95
    assert model.n_layers_ == 2 + (1 if isinstance(sizes, int) else len(sizes))


@pytest.mark.parametrize("sizes", [(16,), (8, 12, 4), (16,) * 30])
def test_a_regressor_of_any_depth_and_widths_learns_more_than_a_line(sizes):
    model = SigmoidCoreRegressor(sizes, max_iter=100, batch_size=25, weight_decay=0.4, random_state=0).fit(*CURVE)
    assert model.score(*CURVE) > 0.83 > 0.8 > LinearRegression().fit(*CURVE).score(*CURVE)


def test_the_units_of_inputs_and_targets_make_no_difference():
    X, y = CURVE
    scales = 10.0 ** np.arange(-5, 5)
    plain = SigmoidCoreRegressor((8,), **QUICK).fit(X, y)
    other = SigmoidCoreRegressor((8,), **QUICK).fit(X * scales + 3 * scales, y * 1e6 - 5e6)
    np.testing.assert_allclose(other.predict(X * scales + 3 * scales), plain.predict(X) * 1e6 - 5e6, rtol=1e-2)


def test_probabilities_are_in_the_order_of_the_classes():
    X, y = make_classification(120, random_state=0)
    names = np.array(["no", "yes"])
    model = SigmoidCoreClassifier((8,), **QUICK).fit(X, names[y])
    probabilities = model.predict_proba(X)
    assert list(model.classes_) == ["no", "yes"]
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(names[probabilities.argmax(1)], model.predict(X))
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), probabilities)
    assert model.out_activation_ == "softmax"


def test_several_targets_are_learnt():
    X, y = CURVE
    both = np.column_stack([y, -1000 * y])
    model = SigmoidCoreRegressor((16,), batch_size=50, **{**QUICK, "max_iter": 60}).fit(X, both)
    assert model.predict(X).shape == both.shape
    assert model.score(X, both) > 0.8
    assert model.n_outputs_ == 2


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.coo_array])
def test_a_sparse_matrix_is_learnt_like_the_dense_one(kind):
    X, y = np.where(FLOWERS[0] > 2, FLOWERS[0], 0), FLOWERS[1]
    dense = SigmoidCoreClassifier((8,), **QUICK).fit(X, y)
    model = SigmoidCoreClassifier((8,), **QUICK).fit(kind(X), y)
    np.testing.assert_allclose(model.predict_proba(kind(X)), dense.predict_proba(X), atol=1e-3)


def test_sparse_text_is_learnt_without_blowing_up_rare_words():
    random = np.random.default_rng(0)
    topics = random.lognormal(size=(3, 800)) / np.arange(1, 801)
    y = np.arange(300) % 3
    counts = np.array([random.multinomial(60, topics[c] / topics[c].sum()) for c in y])
    texts = TfidfTransformer().fit_transform(sparse.csr_matrix(counts))
    model = SigmoidCoreClassifier((16,), **QUICK).fit(texts[:200], y[:200])
    assert model.score(texts[200:], y[200:]) > 0.9
    assert np.isfinite(model.predict_proba(sparse.csr_matrix(texts.shape))).all()


def test_feature_names_are_stored_and_checked():
    frame = load_iris(as_frame=True)
    chain = make_pipeline(StandardScaler().set_output(transform="pandas"), SigmoidCoreClassifier((8,), **QUICK))
    chain.fit(frame.data, frame.target_names[frame.target])
    assert list(chain[-1].feature_names_in_) == list(frame.data.columns)
    assert set(chain.predict(frame.data)) == set(frame.target_names)
    with pytest.raises(ValueError, match="feature names should match"):
        chain[-1].predict(pd.DataFrame(FLOWERS[0], columns=list("abcd")))


def test_a_sample_of_weight_0_is_left_out():
    X, y = FLOWERS
    selected = np.arange(len(y)) % 3 > 0
    weighted = SigmoidCoreClassifier((8,), **QUICK).fit(X, y, sample_weight=selected.astype(float))
    assert same_weights(weighted, SigmoidCoreClassifier((8,), **QUICK).fit(X[selected], y[selected]))


def test_a_sample_of_weight_3_counts_as_three():
    X = np.repeat([[0.0], [1.0]], 40, axis=0)
    y = np.array([0, 1] * 40)
    weights = np.where(y == 1, 3.0, 1.0)
    settings = {**QUICK, "max_iter": 100, "n_iter_no_change": 100, "weight_decay": 0.0}
    model = SigmoidCoreClassifier((4,), **settings).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 0.75, atol=0.02)
    by_class = SigmoidCoreClassifier((4,), class_weight={0: 1, 1: 3}, **settings).fit(X, y)
    np.testing.assert_allclose(by_class.predict_proba(X), model.predict_proba(X))
    regressor = SigmoidCoreRegressor((4,), **settings).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(regressor.predict(X), 0.75, atol=0.02)


@pytest.mark.parametrize("size", [1e-300, 1e308])
def test_only_the_ratios_of_weights_count(size):
    weighted = SigmoidCoreClassifier((8,), **BRIEF).fit(*FLOWERS, sample_weight=np.full(150, size))
    assert same_weights(weighted, SigmoidCoreClassifier((8,), **BRIEF).fit(*FLOWERS, sample_weight=np.ones(150)))


def test_balanced_classes_have_the_same_weight():
    X = np.zeros((80, 1))
    y = np.array([0] * 60 + [1] * 20)
    settings = {**QUICK, "max_iter": 100, "weight_decay": 0.0}
    probabilities = SigmoidCoreClassifier((4,), class_weight="balanced", **settings).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(probabilities, 0.5, atol=0.02)


def test_sample_weights_are_routed_through_a_search():
    X, y = FLOWERS
    with sklearn.config_context(enable_metadata_routing=True):
        model = SigmoidCoreClassifier((4,), max_iter=3, weight_decay=0.4, random_state=0)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(
            make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model),
            {"sigmoidcoreclassifier__saturation": [0.5, 1.0]},
            scoring=get_scorer("accuracy").set_score_request(sample_weight=True),  # scikit-learn 1.6 needs it
        )
        weights = (y < 2).astype(float)
        search.fit(X, y, sample_weight=weights)
        assert search.best_params_["sigmoidcoreclassifier__saturation"] in (0.5, 1.0)
        assert list(search.best_estimator_[-1].classes_) == [0, 1, 2]
        assert len(cross_validate(model, X, y, cv=3, params={"sample_weight": weights})["test_score"]) == 3


def test_losses_fall_and_are_counted():
    model = SigmoidCoreClassifier((8,), **QUICK).fit(*FLOWERS)
    assert len(model.loss_curve_) == model.n_iter_ == 30
    assert model.loss_curve_[-1] == model.loss_ < model.loss_curve_[0] / 2
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.validation_scores_ is model.best_validation_score_ is None


def test_early_stopping_keeps_the_weights_with_the_best_score(capsys):
    X, y = FLOWERS
    model = SigmoidCoreClassifier(
        (8,), max_iter=60, weight_decay=0.4, early_stopping=True, validation_fraction=0.3, random_state=1, verbose=True
    ).fit(X, y)
    assert model.best_loss_ is None
    assert model.best_validation_score_ == max(model.validation_scores_)
    _, held_out, _, classes = train_test_split(X, y, test_size=0.3, random_state=np.random.RandomState(1), stratify=y)
    assert model.score(held_out, classes) == model.best_validation_score_
    assert model.n_iter_ < 60
    assert f"Validation score: {model.validation_scores_[0]:f}" in capsys.readouterr().out


def test_auto_chooses_a_strong_decay_for_noisy_data_and_a_weak_one_for_clean_data():
    random = np.random.RandomState(0)
    X = random.normal(size=(300, 10))
    noise = random.normal(size=300) * 3
    settings = {"max_iter": 30, "random_state": 0}
    noisy = SigmoidCoreRegressor((16, 16), **settings).fit(X, X[:, 0] + noise)
    clean = SigmoidCoreRegressor((16, 16), **settings).fit(X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2])
    assert noisy.weight_decay_ == 8.0
    assert clean.weight_decay_ <= 0.4


def test_a_decay_chosen_on_a_part_of_many_samples_is_scaled_to_all(monkeypatch):
    monkeypatch.setattr(base, "MOST_COMPARED", 60)
    model = SigmoidCoreClassifier((8,), max_iter=5, random_state=0).fit(*FLOWERS)
    assert model.weight_decay_ / (60 / 150) == pytest.approx(
        min(base.DECAYS, key=lambda d: abs(d * 0.4 - model.weight_decay_))
    )


@pytest.mark.parametrize(("samples", "epochs"), [(150, 200), (10_000, 200), (50_000, 40), (10**6, 20)])
def test_many_samples_take_fewer_epochs(samples, epochs):
    assert automatic_epochs(samples) == epochs


def interrupting(monkeypatch, step):
    """Ctrl-C at this step of all trainings."""
    steps = []
    losses = data.Classes.losses

    def losses_or_interrupt(self, outputs, targets):
        steps.append(len(outputs))
        if len(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return losses(self, outputs, targets)

    monkeypatch.setattr(data.Classes, "losses", losses_or_interrupt)


@pytest.mark.parametrize(("step", "epochs"), [(1, 0), (10, 1)])  # an epoch has 5 or 6 steps
def test_ctrl_c_ends_training_with_a_warning_and_keeps_the_network(step, epochs, monkeypatch):
    interrupting(monkeypatch, step)
    model = SigmoidCoreClassifier((8,), max_iter=100, weight_decay=0.4, random_state=0)
    with pytest.warns(UserWarning, match="interrupted") as warned:
        model.fit(*FLOWERS)
    assert [warning.filename for warning in warned] == [__file__]
    assert model.n_iter_ == len(model.loss_curve_) == epochs
    assert (model.loss_ is None) == (model.best_loss_ is None) == (epochs == 0)
    assert model.predict(FLOWERS[0]).shape == (150,)


def test_ctrl_c_during_the_choice_of_a_decay_ends_fit_and_leaves_the_estimator_as_it_was(monkeypatch):
    interrupting(monkeypatch, 10)
    model = SigmoidCoreClassifier((8,), random_state=0)
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        model.fit(*FLOWERS)
    assert vars(model) == before


def test_copies_predict_the_same_and_have_the_same_diagnosis():
    X, y = FLOWERS
    model = SigmoidCoreClassifier((8, 8), **QUICK).fit(X, y)
    unasked = pickle.loads(pickle.dumps(model))
    printed = str(model.diagnosis_)
    joblib.dump(model, file := io.BytesIO())
    file.seek(0)
    for copied in (unasked, joblib.load(file), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
        assert str(copied.diagnosis_) == printed
    assert not hasattr(clone(model), "network_")


def test_the_diagnosis_is_that_of_the_latest_network_on_all_classes():
    model = SigmoidCoreClassifier((8,) * 20, max_iter=3, weight_decay=0.4, random_state=0).fit(*FLOWERS)
    diagnosis = model.diagnosis_
    assert isinstance(diagnosis, sc.Diagnosis)
    assert diagnosis is model.diagnosis_
    assert diagnosis.measurement.samples == 150
    assert "US101" not in [finding.rule for finding in diagnosis.findings]
    assert model.fit(*FLOWERS).diagnosis_ is not diagnosis
    X = np.arange(600.0)[:, None]
    many = SigmoidCoreRegressor((4,), **BRIEF).fit(X, X[:, 0])
    assert many.diagnosis_.measurement.samples == 256
    with pytest.raises(sklearn.exceptions.NotFittedError):
        _ = SigmoidCoreClassifier().diagnosis_


def test_a_folded_network_predicts_the_same_from_standardised_inputs():
    X, y = FLOWERS
    model = SigmoidCoreClassifier((8, 4), **QUICK).fit(X, y)
    plain = sc.fold(model.network_)
    inputs = torch.from_numpy((X - X.mean(0)) / X.std(0))
    np.testing.assert_allclose(plain(inputs).softmax(1).detach().numpy(), model.predict_proba(X), atol=1e-6)


# scikit-learn's own reason, where its estimators train in random batches: the batches, and the samples that slopes are
# prepared with, are others. `test_estimators.py` has what does hold.
NOT_EQUIVALENT = "sample_weight is not equivalent to removing/repeating samples."
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": NOT_EQUIVALENT,
    "check_sample_weight_equivalence_on_sparse_data": NOT_EQUIVALENT,
}


# Quick: few epochs, one weight decay. The checks are of what an estimator takes, gives and keeps.
@parametrize_with_checks(
    [kind((16,), max_iter=10, weight_decay=0.4) for kind in (SigmoidCoreClassifier, SigmoidCoreRegressor)],
    expected_failed_checks=lambda estimator: EXPECTED,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass(estimator, check):
    np.random.seed(0)  # noqa: NPY002  random_state=None draws from it
    check(estimator)
