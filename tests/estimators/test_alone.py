"""An estimator is of one process, whatever runs beside it, and of the CPU, whatever the default device is."""

import contextlib
import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_iris
from torch import distributed

from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor

QUICK = {"max_iter": 5, "random_state": 0}
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_object", "broadcast", "broadcast_object_list", "barrier")


@pytest.fixture(scope="module")
def flowers():
    return load_iris(return_X_y=True)


@pytest.fixture
def two_ranks(monkeypatch):
    """This is one of two ranks, the other of which never answers: what would wait for it is an error."""

    def waiting(*given, **named):
        raise AssertionError("a collective: it would wait for the other rank")

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(distributed, "get_world_size", lambda group=None: 2)
    for name in COLLECTIVES:
        monkeypatch.setattr(distributed, name, waiting)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", [SigmoidCoreClassifier, SigmoidCoreRegressor])
def test_one_rank_may_fit_and_diagnose_by_itself(kind, flowers, two_ranks):
    model = kind((8, 8), **QUICK).fit(*flowers).partial_fit(*flowers)
    model.set_params(early_stopping=True, warm_start=True).fit(*flowers)
    assert model.predict(flowers[0]).shape == (150,)
    assert model.diagnosis_.measurement.ranks == 1


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    ("context", "settings"), [(torch.device, {}), (default_device, {"early_stopping": True, "weight_decay": 0.4})]
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("kind", [SigmoidCoreClassifier, SigmoidCoreRegressor])
def test_the_default_device_makes_no_difference(kind, form, settings, context, flowers):
    X, y = form(flowers[0]), flowers[1]
    plain = kind((8, 8), **QUICK, **settings).fit(X, y, sample_weight=y + 1)
    with context("meta"):
        model = kind((8, 8), **QUICK, **settings).fit(X, y, sample_weight=y + 1)
        found, diagnosis = model.predict(X), model.diagnosis_
        copied = pickle.loads(pickle.dumps(model)).predict(X)
    np.testing.assert_allclose(found, plain.predict(X), rtol=1e-3)  # layers are computed one by one there
    np.testing.assert_array_equal(copied, found)
    assert [finding.rule for finding in diagnosis.findings] == [finding.rule for finding in plain.diagnosis_.findings]


def test_passes_and_probabilities_are_of_the_cpu_too(flowers):
    X, y = flowers
    plain, model = (SigmoidCoreClassifier((8,), random_state=0) for _ in range(2))
    for _ in range(2):
        plain.partial_fit(X, y, classes=[0, 1, 2])
        with torch.device("meta"):
            model.partial_fit(X, y, classes=[0, 1, 2])
    with torch.device("meta"):
        found = model.predict_proba(X), model.predict_log_proba(X)
    np.testing.assert_allclose(found, [plain.predict_proba(X), plain.predict_log_proba(X)], rtol=1e-3)


# "cuda:99": what "cuda" is where there is no GPU, on every machine.
@pytest.mark.parametrize("ask", ["predict", "predict_proba", "score"])
def test_a_model_of_a_machine_with_a_gpu_predicts_without_one_and_says_so(ask, flowers):
    model = SigmoidCoreClassifier((8,), **QUICK).fit(*flowers)
    copied = pickle.loads(pickle.dumps(model.set_params(device="cuda:99")))
    given = flowers if ask == "score" else flowers[:1]
    with pytest.warns(RuntimeWarning, match=r"got 'cuda:99': .*computed on the CPU; set_params\(device=\"cpu\"\)"):
        found = getattr(copied, ask)(*given)
    np.testing.assert_array_equal(found, getattr(model.set_params(device="cpu"), ask)(*given))
    with pytest.raises(ValueError, match="device must be one that this machine has"):
        copied.fit(*flowers)
