"""A model and a batch for a Monitor."""

import gc

import pytest
import torch
from support.monitored import ROWS, attached
from torch import nn


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
