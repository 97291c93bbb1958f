"""A model and a batch for a Monitor."""

import gc

import pytest
import torch
from unstuck_support.monitored import ROWS, attached
from torch import nn

from unstuck.measure.probe import Probe
from unstuck.measure.tracker import Tracker


@pytest.fixture(autouse=True)
def bugs_are_errors(request, monkeypatch):
    """A measurement notes a bug of ours, so that the user's program runs on; a test has to fail."""

    def fail(*arguments):
        raise arguments[-1]

    if request.node.get_closest_marker("with_bugs") is None:
        monkeypatch.setattr(Tracker, "note_bug", fail)
        monkeypatch.setattr(Probe, "_give_up", fail)


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3)
    )


@pytest.fixture
def batch():
    return torch.randn(ROWS, 8), torch.randint(0, 3, (ROWS,))


@pytest.fixture
def leaves_nothing():
    yield
    if attached():  # a dropped object may not have been collected yet
        gc.collect()
    assert not attached()
