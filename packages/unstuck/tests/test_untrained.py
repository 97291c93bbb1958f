"""Weights that may have been trained are told from initial ones: no call draws them anew."""

import pytest
import torch
from torch import nn

import unstuck
from unstuck.measure.measurement import Measurement
from unstuck.untrained import may_be_redrawn


def sigmoids(depth=8, width=32, initialise=None):
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(width, 4))
    if initialise is not None:
        for layer in model[::2]:
            initialise(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def is_untrained(model):
    return may_be_redrawn(model, Measurement((), (), 1))


def stepped(model, rate=1e-3, steps=1, optimizer=torch.optim.Adam):
    optimizer = optimizer(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(64, 32)), torch.randint(4, (64,))).backward()
        optimizer.step()
    return model


INITIALISATIONS = [
    None,
    nn.init.xavier_uniform_,
    nn.init.kaiming_normal_,
    nn.init.orthogonal_,
    lambda weight: nn.init.normal_(weight, std=0.02),
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("initialise", INITIALISATIONS)
def test_common_initialisations_are_untrained_and_a_single_step_is_noticed(initialise, seed):
    torch.manual_seed(seed)
    model = sigmoids(initialise=initialise)
    assert is_untrained(model)
    assert not is_untrained(stepped(model))


@pytest.mark.parametrize("seed", range(2))
def test_convolutions_and_recurrent_layers_are_judged_too(seed):
    torch.manual_seed(seed)
    for layer in (nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 3), nn.LSTM(8, 16), nn.Conv1d(16, 16, 3, groups=4)):
        assert is_untrained(nn.Sequential(layer))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        assert not is_untrained(nn.Sequential(layer))


def test_weights_without_a_witness_may_be_pretrained():
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(4)))
    for layer in model:
        nn.init.normal_(layer.weight, std=0.02)
    assert not is_untrained(model)
    assert not is_untrained(nn.Sequential(nn.ReLU()))


def test_other_weights_are_advised_for_untrained_ones_only():
    torch.manual_seed(0)
    model, x, y = sigmoids(depth=20), torch.randn(64, 32), torch.randint(4, (64,))
    assert "orthogonal_" in unstuck.diagnose(model, x, y, nn.functional.cross_entropy).findings[0].call
    stepped(model)
    assert unstuck.diagnose(model, x, y, nn.functional.cross_entropy).findings[0].call is None


def test_other_weights_are_advised_at_the_first_step_of_a_training_and_not_later():
    torch.manual_seed(0)
    model, x, y = sigmoids(depth=20), torch.randn(64, 32), torch.randint(4, (64,))
    optimizer = torch.optim.Adam(model.parameters())
    with unstuck.Monitor(model, every=1) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            assert (monitor.diagnosis().findings[0].call is not None) is (step == 0)
