"""The neuron rule by itself: what is opened, how, and what is left alone."""

import pytest
import torch

import sigmoidcore as sc
from sigmoidcore.equalizer.neuron_rule import open_neurons
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.process_group import Ranks

FLOOR = 0.05


def opened(core, x):
    shut = mean_relative_slope(core.alpha * (x - core.shift)) < FLOOR
    count = open_neurons(core, x[:, shut], shut, FLOOR, Ranks())
    return count, mean_relative_slope(core.alpha * (x - core.shift))


def test_a_neuron_saturated_by_offset_gets_the_batch_mean_as_its_shift_and_keeps_its_slope():
    core = sc.SigmoidCore(3)
    x = torch.randn(500, 3) + torch.tensor([0.0, 20.0, -30.0])
    count, slopes = opened(core, x)
    assert count == 2
    assert torch.equal(core.slope, torch.ones(3))
    assert torch.allclose(core.shift, torch.cat([torch.zeros(1), x[:, 1:].mean(0)]), atol=1e-5)
    assert bool((slopes > 0.5).all())


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_values_that_are_not_finite_open_no_neuron(wrong):
    core = sc.SigmoidCore(1)
    x = torch.full((10, 1), wrong)
    assert open_neurons(core, x, torch.tensor([True]), FLOOR, Ranks()) == 0
    assert (core.slope, core.shift) == (torch.ones(1), torch.zeros(1))
