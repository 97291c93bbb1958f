"""An estimator does not depend on the caller's generators, default device and dtype, gradient mode or processes."""

import contextlib
import pickle

import joblib
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_iris
from torch import distributed

from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor

QUICK = {"max_iter": 5, "random_state": 0}
KINDS = [SigmoidCoreClassifier, SigmoidCoreRegressor]
X, y = load_iris(return_X_y=True)


def same_weights(a, b):
    pairs = zip(a.network_.state_dict().values(), b.network_.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_random_state_alone_decides_the_weights(kind):
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        models.append(kind((8,), max_iter=5, random_state=3).fit(X, y))
    assert same_weights(*models)
    assert same_weights(models[0], kind((8,), max_iter=5, random_state=np.random.RandomState(3)).fit(X, y))
    assert not same_weights(models[0], kind((8,), max_iter=5, random_state=4).fit(X, y))


def test_the_callers_generators_and_threads_are_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    SigmoidCoreClassifier((8,), **QUICK).fit(X, y).predict(X)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == torch.get_num_threads()


def test_threads_that_fit_at_the_same_time_do_not_disturb_each_other():
    def fit(seed):
        return SigmoidCoreClassifier((8, 8), max_iter=5, weight_decay=0.4, random_state=seed).fit(X, y)

    parallel = joblib.Parallel(n_jobs=4, backend="threading")(joblib.delayed(fit)(seed) for seed in range(8))
    assert all(same_weights(model, fit(seed)) for seed, model in enumerate(parallel))


def test_it_trains_without_gradients_and_with_another_default_dtype():
    settings = {"max_iter": 30, "weight_decay": 0.4, "random_state": 0}
    plain = SigmoidCoreClassifier((8,), **settings).fit(X, y)
    with torch.inference_mode():
        assert same_weights(SigmoidCoreClassifier((8,), **settings).fit(X, y), plain)
    torch.set_default_dtype(torch.float64)
    try:
        model = SigmoidCoreClassifier((8,), **settings).fit(X, y)
        np.testing.assert_allclose(model.predict_proba(X), plain.predict_proba(X), atol=0.2)
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    ("kind", "form", "settings"),
    [
        (SigmoidCoreClassifier, np.asarray, {"weight_decay": 0.4}),
        (SigmoidCoreRegressor, sparse.csr_matrix, {"early_stopping": True, "weight_decay": 0.4}),
    ],
)
def test_the_default_device_makes_no_difference(kind, form, settings):
    plain = kind((8, 8), **QUICK, **settings).fit(form(X), y, sample_weight=y + 1)
    with default_device("meta"):
        model = kind((8, 8), **QUICK, **settings).fit(form(X), y, sample_weight=y + 1)
        predictions, diagnosis = model.predict(form(X)), model.diagnosis_
        copied = pickle.loads(pickle.dumps(model)).predict(form(X))
    np.testing.assert_allclose(predictions, plain.predict(form(X)), rtol=1e-3)  # layers are not fused there
    np.testing.assert_array_equal(copied, predictions)
    assert [finding.rule for finding in diagnosis.findings] == [finding.rule for finding in plain.diagnosis_.findings]


def test_without_its_device_a_fitted_estimator_predicts_after_a_change_to_the_cpu():
    model = pickle.loads(pickle.dumps(SigmoidCoreClassifier((8,), **QUICK).fit(X, y).set_params(device="cuda:99")))
    for method in (model.predict, lambda X: model.fit(X, y)):
        with pytest.raises((RuntimeError, AssertionError), match=r"NVIDIA|CUDA"):
            method(X)
    assert model.set_params(device="cpu").score(X, y) > 0.3


@pytest.fixture
def two_ranks(monkeypatch):
    """This process is one of two ranks, and a collective, which would wait for the other, is an error."""

    def collective(*arguments, **options):
        raise AssertionError("a collective: it would wait for the other rank")

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(distributed, "get_world_size", lambda group=None: 2)
    for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "broadcast_object_list", "barrier"):
        monkeypatch.setattr(distributed, name, collective)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_can_fit_and_diagnose_without_the_others(kind, two_ranks):
    model = kind((8, 8), **QUICK).fit(X, y)
    model.set_params(early_stopping=True).fit(X, y)
    assert model.predict(X).shape == (150,)
    assert model.diagnosis_.measurement.ranks == 1
