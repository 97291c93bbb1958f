"""The estimators: what they learn, what they take and give, and what they leave alone."""

import copy
import io
import math
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
from sklearn.datasets import load_iris, make_classification, make_friedman1, make_multilabel_classification
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_validate, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sigmoidcore as sc
from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor
from sigmoidcore.estimators.parameters import batch_of

QUICK = {"max_iter": 30, "weight_decay": 0.4, "random_state": 0}


@pytest.fixture(scope="module")
def flowers():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def curve():
    return make_friedman1(200, random_state=0)


def same_weights(a, b):
    pairs = zip(a.network_.state_dict().values(), b.network_.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# --- what they learn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [8, (16,), (8, 12, 4), (16,) * 30])
def test_a_classifier_of_any_depth_and_widths_learns(flowers, sizes):
    model = SigmoidCoreClassifier(sizes, max_iter=100, weight_decay=0.4, random_state=0).fit(*flowers)
    assert model.score(*flowers) > 0.95
    assert model.n_layers_ == 2 + (1 if isinstance(sizes, int) else len(sizes))


@pytest.mark.parametrize("sizes", [(16,), (8, 12, 4), (16,) * 30])
def test_a_regressor_of_any_depth_and_widths_learns_more_than_a_line(curve, sizes):
    model = SigmoidCoreRegressor(sizes, max_iter=100, batch_size=25, weight_decay=0.4, random_state=0).fit(*curve)
    assert model.score(*curve) > 0.83 > 0.8 > LinearRegression().fit(*curve).score(*curve)


def test_the_units_of_inputs_and_targets_make_no_difference(curve):
    X, y = curve
    scales = 10.0 ** np.arange(-5, 5)
    plain = SigmoidCoreRegressor((8,), **QUICK).fit(X, y)
    other = SigmoidCoreRegressor((8,), **QUICK).fit(X * scales + 3 * scales, y * 1e6 - 5e6)
    np.testing.assert_allclose(other.predict(X * scales + 3 * scales), plain.predict(X) * 1e6 - 5e6, rtol=1e-2)


def test_probabilities_are_those_of_the_classes_in_order():
    X, y = make_classification(120, random_state=0)
    names = np.array(["no", "yes"])
    model = SigmoidCoreClassifier((8,), **QUICK).fit(X, names[y])
    found = model.predict_proba(X)
    assert list(model.classes_) == ["no", "yes"]
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(names[found.argmax(1)], model.predict(X))
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), found)
    assert model.out_activation_ == "softmax"


def test_several_labels_a_sample():
    X, y = make_multilabel_classification(150, n_classes=3, random_state=0)
    model = SigmoidCoreClassifier((16,), **{**QUICK, "max_iter": 100}).fit(X, y)
    found = model.predict_proba(X)
    assert found.shape == (150, 3)
    np.testing.assert_array_equal(found > 0.5, model.predict(X))
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), found)
    assert model.score(X, y) > 0.8
    assert model.out_activation_ == "logistic"


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.coo_array])
@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": "auto"}, {"early_stopping": True}, {"class_weight": "balanced"}]
)
def test_labels_in_a_sparse_matrix_are_learnt_as_in_an_array_and_predicted_as_one(kind, settings):
    X, y = make_multilabel_classification(80, n_classes=3, random_state=0)
    weights = np.arange(80) % 3
    settings = {**QUICK, "max_iter": 5, **settings}
    dense = SigmoidCoreClassifier((8,), **settings).fit(X, y, sample_weight=weights)
    model = SigmoidCoreClassifier((8,), **settings).fit(X, kind(y), sample_weight=weights)
    assert same_weights(model, dense)
    found = model.predict(X)
    assert isinstance(found, sparse.csr_matrix)  # as from MLPClassifier
    np.testing.assert_array_equal(found.toarray(), dense.predict(X))
    assert model.score(X, kind(y)) == model.score(X, y) == dense.score(X, kind(y))


def test_labels_in_a_frame_are_learnt_without_a_warning():
    X, y = make_multilabel_classification(80, n_classes=3, random_state=0)
    settings = {**QUICK, "max_iter": 2}
    model = SigmoidCoreClassifier((8,), **settings).fit(X, pd.DataFrame(y))
    assert same_weights(model, SigmoidCoreClassifier((8,), **settings).fit(X, y))


def test_sparse_labels_may_come_bit_by_bit():
    X, y = make_multilabel_classification(80, n_classes=3, random_state=0)
    dense, model = (SigmoidCoreClassifier((8,), random_state=0) for _ in range(2))
    for _ in range(2):
        dense.partial_fit(X, y, classes=[0, 1, 2])
        model.partial_fit(X, sparse.csr_matrix(y), classes=[0, 1, 2])
    assert same_weights(model, dense)


def test_several_targets_a_sample(curve):
    X, y = curve
    both = np.column_stack([y, -1000 * y])
    model = SigmoidCoreRegressor((16,), batch_size=50, **{**QUICK, "max_iter": 60}).fit(X, both)
    assert model.predict(X).shape == both.shape
    assert model.score(X, both) > 0.8
    assert model.n_outputs_ == 2


# --- what they take and give -----------------------------------------------------------------------------------------


def test_a_sparse_matrix_is_learnt_as_the_same_numbers_in_an_array(flowers):
    X, y = np.where(flowers[0] > 2, flowers[0], 0), flowers[1]
    dense = SigmoidCoreClassifier((8,), **QUICK).fit(X, y)
    for kind in (sparse.csr_matrix, sparse.coo_array):
        model = SigmoidCoreClassifier((8,), **QUICK).fit(kind(X), y)
        np.testing.assert_allclose(model.predict_proba(kind(X)), dense.predict_proba(X), atol=1e-3)


def test_names_of_a_frame_are_kept_and_checked(flowers):
    frame = load_iris(as_frame=True)
    chain = make_pipeline(StandardScaler().set_output(transform="pandas"), SigmoidCoreClassifier((8,), **QUICK))
    chain.fit(frame.data, frame.target_names[frame.target])
    assert list(chain[-1].feature_names_in_) == list(frame.data.columns)
    assert set(chain.predict(frame.data)) == set(frame.target_names)
    with pytest.raises(ValueError, match="feature names should match"):
        chain[-1].predict(pd.DataFrame(flowers[0], columns=list("abcd")))


def test_a_sample_of_weight_0_is_no_sample(flowers):
    X, y = flowers
    kept = np.arange(len(y)) % 3 > 0
    weighted = SigmoidCoreClassifier((8,), **QUICK).fit(X, y, sample_weight=kept.astype(float))
    assert same_weights(weighted, SigmoidCoreClassifier((8,), **QUICK).fit(X[kept], y[kept]))


def test_a_sample_of_weight_3_counts_as_three():
    X = np.repeat([[0.0], [1.0]], 40, axis=0)
    y = np.array([0, 1] * 40)
    weights = np.where(y == 1, 3.0, 1.0)
    settings = {**QUICK, "max_iter": 200, "n_iter_no_change": 200, "weight_decay": 0.0}
    model = SigmoidCoreClassifier((4,), **settings).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 0.75, atol=0.02)
    by_class = SigmoidCoreClassifier((4,), class_weight={0: 1, 1: 3}, **settings).fit(X, y)
    np.testing.assert_allclose(by_class.predict_proba(X), model.predict_proba(X))
    regressor = SigmoidCoreRegressor((4,), **settings).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(regressor.predict(X), 0.75, atol=0.02)


@pytest.mark.parametrize("size", [1e-300, 1e300, 1e308])
def test_only_the_ratios_of_weights_count(flowers, size):
    settings = {**QUICK, "max_iter": 3}
    weighted = SigmoidCoreClassifier((8,), **settings).fit(*flowers, sample_weight=np.full(150, size))
    assert same_weights(weighted, SigmoidCoreClassifier((8,), **settings).fit(*flowers, sample_weight=np.ones(150)))


def test_balanced_classes_have_the_same_weight():
    X = np.zeros((80, 1))
    y = np.array([0] * 60 + [1] * 20)
    settings = {**QUICK, "max_iter": 100, "weight_decay": 0.0}
    found = SigmoidCoreClassifier((4,), class_weight="balanced", **settings).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(found, 0.5, atol=0.02)


def test_sample_weights_are_routed_through_a_search(flowers):
    X, y = flowers
    with sklearn.config_context(enable_metadata_routing=True):
        model = SigmoidCoreClassifier((4,), max_iter=3, weight_decay=0.4, random_state=0)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(
            make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model),
            {"sigmoidcoreclassifier__saturation": [0.5, 1.0]},
        )
        weights = (y < 2).astype(float)
        search.fit(X, y, sample_weight=weights)
        assert search.best_params_["sigmoidcoreclassifier__saturation"] in (0.5, 1.0)
        assert list(search.best_estimator_[-1].classes_) == [0, 1, 2]
        unweighted = cross_validate(model, X, y, cv=3, params={"sample_weight": weights})
        assert len(unweighted["test_score"]) == 3


def test_a_copy_from_joblib_or_pickle_predicts_the_same(flowers):
    X, y = flowers
    model = SigmoidCoreClassifier((8, 8), **QUICK).fit(X, y)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    for copied in (joblib.load(file), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
        assert str(copied.diagnosis_) == str(model.diagnosis_)


def test_a_diagnosis_that_was_asked_for_is_copied_with_the_estimator(flowers):
    X, y = flowers
    model = SigmoidCoreClassifier((8, 8), **QUICK).fit(X, y)
    printed = str(model.diagnosis_)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    for copied in (joblib.load(file), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert str(copied.diagnosis_) == printed
        np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
    assert str(pickle.loads(pickle.dumps(model.diagnosis_))) == printed
    assert not hasattr(clone(model), "network_")


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SigmoidCoreClassifier, SigmoidCoreRegressor])
def test_the_same_random_state_gives_the_same_weights_whatever_the_global_generators_are(kind, flowers):
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        models.append(kind((8,), max_iter=5, random_state=3).fit(*flowers))
    assert same_weights(*models)
    assert same_weights(models[0], kind((8,), max_iter=5, random_state=np.random.RandomState(3)).fit(*flowers))
    assert not same_weights(models[0], kind((8,), max_iter=5, random_state=4).fit(*flowers))


def test_threads_that_fit_at_once_do_not_disturb_each_other(flowers):
    def fit(seed):
        return SigmoidCoreClassifier((8, 8), max_iter=5, weight_decay=0.4, random_state=seed).fit(*flowers)

    together = joblib.Parallel(n_jobs=4, backend="threading")(joblib.delayed(fit)(seed) for seed in range(8))
    assert all(same_weights(model, fit(seed)) for seed, model in enumerate(together))


def test_the_callers_generators_threads_and_settings_are_as_they_were(flowers):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    SigmoidCoreClassifier((8,), max_iter=3, random_state=0).fit(*flowers).predict(flowers[0])
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == torch.get_num_threads()


def test_it_trains_where_gradients_are_off_and_the_default_dtype_is_another(flowers):
    plain = SigmoidCoreClassifier((8,), **QUICK).fit(*flowers)
    with torch.inference_mode():
        assert same_weights(SigmoidCoreClassifier((8,), **QUICK).fit(*flowers), plain)
    torch.set_default_dtype(torch.float64)
    try:
        model = SigmoidCoreClassifier((8,), **QUICK).fit(*flowers)
        np.testing.assert_allclose(model.predict_proba(flowers[0]), plain.predict_proba(flowers[0]), atol=0.2)
    finally:
        torch.set_default_dtype(torch.float32)


def test_losses_fall_and_are_counted(flowers):
    model = SigmoidCoreClassifier((8,), **QUICK).fit(*flowers)
    assert len(model.loss_curve_) == model.n_iter_ == 30
    assert model.loss_curve_[-1] == model.loss_ < model.loss_curve_[0] / 2
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.t_ == 30 * 150
    assert model.validation_scores_ is model.best_validation_score_ is None


def test_early_stopping_keeps_the_weights_of_the_best_score(flowers, capsys):
    X, y = flowers
    model = SigmoidCoreClassifier(
        (8,), max_iter=60, weight_decay=0.4, early_stopping=True, validation_fraction=0.3, random_state=1, verbose=True
    ).fit(X, y)
    assert model.best_loss_ is None
    assert model.best_validation_score_ == max(model.validation_scores_)
    _, held_out, _, classes = train_test_split(X, y, test_size=0.3, random_state=np.random.RandomState(1), stratify=y)
    assert model.score(held_out, classes) == model.best_validation_score_
    assert model.n_iter_ < 60
    assert f"Validation score: {model.validation_scores_[0]:f}" in capsys.readouterr().out


def test_training_ends_when_nothing_gets_better(flowers):
    model = SigmoidCoreClassifier((8,), max_iter=500, tol=0.5, n_iter_no_change=3, weight_decay=0.4, random_state=0)
    assert model.fit(*flowers).n_iter_ < 20


def test_a_warm_start_goes_on_and_a_cold_one_does_not(flowers):
    model = SigmoidCoreClassifier((8,), warm_start=True, n_iter_no_change=30, **QUICK)
    first = model.fit(*flowers).loss_curve_[0]
    model.fit(*flowers)
    assert model.n_iter_ == len(model.loss_curve_) == 60
    assert model.loss_curve_[30] < first / 2
    with pytest.raises(ValueError, match="classes that were not there"):
        model.fit(flowers[0], flowers[1] + 1)
    with pytest.raises(ValueError, match="warm_start=False"):
        model.set_params(hidden_layer_sizes=(9,)).fit(*flowers)
    assert model.set_params(warm_start=False).fit(*flowers).n_iter_ == 30


def test_a_warm_start_may_hold_samples_out_later(flowers):
    model = SigmoidCoreClassifier((8,), warm_start=True, **{**QUICK, "max_iter": 5}).fit(*flowers)
    model.set_params(early_stopping=True).fit(*flowers)
    assert len(model.validation_scores_) == 5
    assert model.set_params(early_stopping=False).partial_fit(*flowers).n_iter_ == 11


def test_the_best_score_is_that_of_the_weights_also_where_a_training_before_had_a_better_one(flowers):
    X, y = flowers
    settings = {"early_stopping": True, "validation_fraction": 0.3, "warm_start": True, **QUICK, "max_iter": 5}
    model = SigmoidCoreClassifier((8,), **settings).fit(X, y)
    assert model.best_validation_score_ > 0.9
    model.fit(X, np.roll(y, 25))  # now half of the classes are wrong
    assert len(model.validation_scores_) == 10
    assert model.best_validation_score_ == max(model.validation_scores_[5:]) < 0.9
    _, held_out, _, classes = train_test_split(
        X, np.roll(y, 25), test_size=0.3, random_state=np.random.RandomState(0), stratify=np.roll(y, 25)
    )
    assert model.score(held_out, classes) == model.best_validation_score_
    assert model.set_params(early_stopping=False).fit(X, y).best_validation_score_ is None


@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_a_weight_decay_that_is_changed_counts_from_the_next_training_on_and_auto_keeps_the_last(flowers, go_on):
    changed, unchanged = (
        SigmoidCoreClassifier((8,), warm_start=True, **{**QUICK, "max_iter": 5}).fit(*flowers) for _ in range(2)
    )
    for model, decay in ((changed, 8.0), (unchanged, 0.4)):
        getattr(model.set_params(weight_decay=decay), go_on)(*flowers)
        assert model.weight_decay_ == decay
    assert not same_weights(changed, unchanged)
    for model, decay in ((changed, 8.0), (unchanged, 0.4)):
        assert getattr(model.set_params(weight_decay="auto"), go_on)(*flowers).weight_decay_ == decay


def test_a_learning_rate_that_is_changed_counts_from_the_next_pass_on(curve):
    model = SigmoidCoreRegressor((8,), weight_decay=0.0, random_state=0).partial_fit(*curve)
    before = model.predict(curve[0])
    model.set_params(learning_rate_init=1e-12).partial_fit(*curve)
    np.testing.assert_allclose(model.predict(curve[0]), before, rtol=1e-5)
    model.set_params(learning_rate_init=0.03).partial_fit(*curve)
    assert np.abs(model.predict(curve[0]) - before).max() > 0.1


def test_passes_of_partial_fit_learn_and_can_be_interrupted_by_a_pickle(flowers):
    X, y = flowers
    halves = [np.arange(0, 150, 2), np.arange(1, 150, 2)]
    one = SigmoidCoreClassifier((8,), batch_size=25, random_state=0)
    two = clone(one)
    for _ in range(30):
        for half in halves:
            one.partial_fit(X[half], y[half], classes=[0, 1, 2])
            two = pickle.loads(pickle.dumps(two.partial_fit(X[half], y[half], classes=[0, 1, 2])))
    assert same_weights(one, two)
    assert one.score(X, y) > 0.9
    assert one.n_iter_ == 60


def test_an_epoch_has_at_least_five_steps_from_65_samples_on():
    steps = {samples: -(-samples // batch_of(samples)) for samples in range(1, 2000)}
    assert min(samples for samples, count in steps.items() if count >= 5) == 65
    assert all(count >= 5 for samples, count in steps.items() if samples >= 65)


def test_at_most_256_samples_are_kept_for_a_diagnosis():
    X = np.arange(600.0)[:, None]
    model = SigmoidCoreRegressor((4,), **{**QUICK, "max_iter": 1}).fit(X, X[:, 0])
    assert [part.shape for part in model._sample] == [(256, 1), (256, 1)]


def test_the_decay_is_chosen_by_what_the_data_bear():
    random = np.random.RandomState(0)
    X = random.normal(size=(300, 10))
    noise = random.normal(size=300) * 3
    settings = {"max_iter": 60, "random_state": 0}
    noisy = SigmoidCoreRegressor((16, 16), **settings).fit(X, X[:, 0] + noise)
    clean = SigmoidCoreRegressor((16, 16), **settings).fit(X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2])
    assert noisy.weight_decay_ == 8.0
    assert clean.weight_decay_ <= 0.4


@pytest.mark.parametrize("decay", [0.4, "auto"])
def test_ctrl_c_in_the_first_epoch_leaves_an_estimator_without_a_loss(flowers, decay, monkeypatch):
    monkeypatch.setattr(SigmoidCoreClassifier, "_losses", lambda *given: signal.raise_signal(signal.SIGINT))
    model = SigmoidCoreClassifier((8,), max_iter=100, weight_decay=decay, random_state=0)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(*flowers)
    assert model.loss_ is model.best_loss_ is None
    assert model.loss_curve_ == []
    assert model.predict(flowers[0]).shape == (150,)


@pytest.mark.parametrize("decay", [0.4, "auto"])
def test_ctrl_c_ends_training_and_keeps_what_there_is(flowers, decay, monkeypatch):
    losses = []
    learnt = SigmoidCoreClassifier._losses

    def interrupting(self, outputs, targets):
        losses.append(len(outputs))
        if len(losses) == 10:
            signal.raise_signal(signal.SIGINT)
        return learnt(self, outputs, targets)

    monkeypatch.setattr(SigmoidCoreClassifier, "_losses", interrupting)
    model = SigmoidCoreClassifier((8,), max_iter=100, weight_decay=decay, random_state=0)
    with pytest.warns(UserWarning, match="interrupted") as warned:
        model.fit(*flowers)
    assert [warning.filename for warning in warned] == [__file__]
    assert model.n_iter_ == len(model.loss_curve_) == 1  # of 6 and 5 steps an epoch, the second was interrupted
    assert model.predict(flowers[0]).shape == (150,)
    assert model.get_params()["weight_decay"] == decay


def test_a_diagnosis_is_made_when_it_is_asked_for_and_of_the_network_as_it_is(flowers):
    model = SigmoidCoreClassifier((8,) * 20, max_iter=3, weight_decay=0.4, random_state=0).fit(*flowers)
    assert isinstance(model.diagnosis_, sc.Diagnosis)
    assert model.diagnosis_ is model.diagnosis_
    before = model.diagnosis_
    assert set(model._sample[1].tolist()) == {0, 1, 2}
    assert model.fit(*flowers).diagnosis_ is not before
    assert "SC101" not in [finding.rule for finding in before.findings]
    with pytest.raises(sklearn.exceptions.NotFittedError):
        _ = SigmoidCoreClassifier().diagnosis_


def test_a_folded_network_predicts_the_same_from_standardised_inputs(flowers):
    X, y = flowers
    model = SigmoidCoreClassifier((8, 4), **QUICK).fit(X, y)
    plain = sc.fold(model.network_)
    inputs = torch.from_numpy((X - X.mean(0)) / X.std(0))
    np.testing.assert_allclose(plain(inputs).softmax(1).detach().numpy(), model.predict_proba(X), atol=1e-6)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": ()}, r"hidden_layer_sizes .* got \(\)"),
        ({"hidden_layer_sizes": (4, 0)}, r"hidden_layer_sizes .* got \(4, 0\)"),
        ({"max_iter": 0}, "max_iter .* at least 1, got 0"),
        ({"batch_size": 0}, 'batch_size must be "auto" or .* got 0'),
        ({"learning_rate_init": 0}, "learning_rate_init .* above 0, got 0"),
        ({"weight_decay": "much"}, "weight_decay .* got 'much'"),
        ({"weight_decay": -1}, "weight_decay .* got -1"),
        ({"tol": float("nan")}, "tol .* got nan"),
        ({"weight_decay": None}, 'weight_decay must be "auto" or a finite number of at least 0, got None'),
        ({"saturation": 0}, 'saturation must be "auto" or a number above 0, up to 100, got 0'),
        ({"saturation": "much"}, "saturation .* got 'much'"),
        ({"saturation": None}, "saturation .* got None"),
        ({"saturation": True}, "saturation .* got True"),
        ({"saturation": [1]}, r"saturation .* got \[1\]"),
        ({"tolerance": 1}, "tolerance must be a finite factor above 1, got 1"),
        ({"tolerance": "x"}, "tolerance .* got 'x'"),
        ({"warm_start": "yes"}, "warm_start must be True or False, got 'yes'"),
        ({"shuffle": None}, "shuffle must be True or False, got None"),
        ({"early_stopping": 1}, "early_stopping must be True or False, got 1"),
        ({"max_iter": True}, "max_iter .* got True"),
        ({"device": "gpu"}, "device must be one .* as \"cpu\", got 'gpu': Expected one of"),
        ({"device": "cuda:99"}, "device must be one .* got 'cuda:99'"),
        ({"device": "meta"}, "device must be one .* got 'meta'"),
        ({"device": None}, "device must be one .* got None"),
        ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction .* got 1.5"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "raise validation_fraction"),
        ({"class_weight": {0: 1, 1: -1, 2: 1}}, "class_weight .* at least 0, got -1 for class 1"),
        ({"class_weight": {0: math.nan, 1: 1, 2: 1}}, "class_weight .* got nan for class 0"),
        ({"class_weight": {0: 1, 1: 1, 2: math.inf}}, "class_weight .* got inf for class 2"),
        ({"class_weight": {0: 1, 1: 1, 2: "much"}}, "class_weight .* got 'much' for class 2"),
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_value(flowers, parameters, message):
    model = SigmoidCoreClassifier(**{"hidden_layer_sizes": (4,), **QUICK, **parameters})
    with pytest.raises(ValueError, match=message):
        model.fit(*flowers)


def test_what_partial_fit_cannot_do_is_said(flowers):
    X, y = flowers
    with pytest.raises(ValueError, match="classes must be given in the first call"):
        SigmoidCoreClassifier((4,)).partial_fit(X, y)
    with pytest.raises(ValueError, match="not in classes: \\[2\\]"):
        SigmoidCoreClassifier((4,)).partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="early_stopping=False"):
        SigmoidCoreClassifier((4,), early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="needs all samples at once"):
        SigmoidCoreClassifier((4,), class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    model = SigmoidCoreClassifier((4,)).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="not what it was in the first call"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="several labels before"):
        model.partial_fit(X, np.eye(3, dtype=int)[y])
    labels = np.eye(3, dtype=int)[y]
    with pytest.raises(ValueError, match=r"3 labels a sample, and classes=\[0, 1\] names 2: give one class for each"):
        SigmoidCoreClassifier((4,)).partial_fit(X, labels, classes=[0, 1])
    several = SigmoidCoreClassifier((4,)).partial_fit(X, labels, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="y has 2 labels a sample, and had 3 before"):
        several.partial_fit(X, labels[:, :2])
    with pytest.raises(ValueError, match="y has 1 targets a sample, and had 3 before"):
        SigmoidCoreRegressor((4,)).partial_fit(X, labels).partial_fit(X, y)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.coo_array])
@pytest.mark.parametrize("signs", [(-1, 1), (0, 2), (0.0, -1.0)])
def test_an_indicator_matrix_of_other_numbers_than_0_and_1_is_refused(kind, signs):
    X, y = make_multilabel_classification(80, n_classes=3, random_state=0)
    message = "several labels a sample, but holds (-1|2): an indicator matrix holds 0 and 1 only"
    if kind is not np.asarray and 0 not in signs:  # for scikit-learn no indicator matrix at all
        message = "several classes a sample in several columns"
    model = SigmoidCoreClassifier((4,), **QUICK)
    for learn in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=message):
            learn(X, kind(np.choose(y, signs)))
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, kind(y), classes=[0, 1, 2]).partial_fit(X, kind(np.choose(y, signs)))


@pytest.mark.parametrize("kind", [bool, np.int8, np.float64])
def test_an_indicator_matrix_may_have_any_dtype(kind):
    X, y = make_multilabel_classification(80, n_classes=3, random_state=0)
    settings = {**QUICK, "max_iter": 2}
    model = SigmoidCoreClassifier((4,), **settings).fit(X, y.astype(kind))
    assert same_weights(model, SigmoidCoreClassifier((4,), **settings).fit(X, y))


def test_weights_of_the_classes_of_each_label_are_checked():
    X, y = make_multilabel_classification(80, n_classes=2, random_state=0)
    with pytest.raises(ValueError, match="got nan for class 1"):
        SigmoidCoreClassifier((4,), class_weight=[{0: 1, 1: 1}, {0: 1, 1: math.nan}]).fit(X, y)
    with pytest.raises(ValueError, match="class_weight"):
        SigmoidCoreClassifier((4,), class_weight="much").fit(X, y)
    SigmoidCoreClassifier((4,), class_weight=[{0: 1, 1: 2}, {0: 0, 1: 1}], **QUICK).fit(X, y)


def test_weights_and_targets_that_say_nothing_are_refused(flowers):
    X, y = flowers
    with pytest.raises(ValueError, match="at least one non-zero"):
        SigmoidCoreClassifier((4,)).fit(X, y, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match="one classifier a column"):
        SigmoidCoreClassifier((4,)).fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"give y.toarray\(\)"):
        SigmoidCoreRegressor((4,)).fit(X, sparse.csr_matrix(np.eye(3)[y]))
