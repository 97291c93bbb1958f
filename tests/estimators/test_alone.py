"""An estimator is of one process, whatever runs beside it, and of the CPU, whatever the default device is."""

import pytest
import torch
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


def same_weights(a, b):
    pairs = zip(a.network_.state_dict().values(), b.network_.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("kind", [SigmoidCoreClassifier, SigmoidCoreRegressor])
def test_one_rank_may_fit_and_diagnose_by_itself(kind, flowers, two_ranks):
    model = kind((8, 8), **QUICK).fit(*flowers).partial_fit(*flowers)
    model.set_params(early_stopping=True, warm_start=True).fit(*flowers)
    assert model.predict(flowers[0]).shape == (150,)
    assert model.diagnosis_.measurement.ranks == 1
