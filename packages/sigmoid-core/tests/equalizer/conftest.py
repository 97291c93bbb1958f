"""A network of seven prepared layers, and a batch."""

import pytest
import torch
from core_support.equalized import DEPTH

from sigmoidcore import MLP, prepare


@pytest.fixture
def model():
    torch.manual_seed(1)
    network = MLP(8, 16, DEPTH, 3)
    prepare(network, torch.randn(200, 8))
    return network


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(50, 8, generator=generator), torch.randint(0, 3, (50,), generator=generator)
