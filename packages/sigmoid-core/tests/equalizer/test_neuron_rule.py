"""The neuron rule by itself: what is opened, how, and what is left alone."""

from types import SimpleNamespace

import pytest
import torch

import sigmoidcore as sc
from sigmoidcore.equalizer.neuron_rule import NeuronRule, open_neurons
from sigmoidcore.gain import mean_relative_slope
from unstuck.observation.process_group import Ranks

FLOOR = 0.05


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_values_that_are_not_finite_open_no_neuron(wrong):
    core = sc.SigmoidCore(1)
    x = torch.full((10, 1), wrong)
    assert open_neurons(core, x, torch.tensor([True]), FLOOR, Ranks()) == 0
    assert (core.slope, core.shift) == (torch.ones(1), torch.zeros(1))


class Samples:
    """A core, and the rule that sees preactivations around an offset, sample after sample."""

    def __init__(self):
        self.core = sc.SigmoidCore(4)
        self.rule = NeuronRule({"core": self.core}, FLOOR)
        self.first = True

    def opened(self, offset):
        x = torch.randn(500, 4) + offset
        relative = {"core": mean_relative_slope(self.core.alpha * (x - self.core.shift)).double()}
        count = self.rule.open({"core": [SimpleNamespace(x=x)]}, relative, Ranks(), first=self.first)
        self.first = False
        return count


def test_data_that_alternate_open_nothing_after_the_first_sample():
    samples = Samples()
    assert [samples.opened(offset) for offset in [0.0, 30.0] * 5] == [0] * 10


def test_data_that_alternate_in_blocks_end_with_a_core_that_is_open_for_both_and_rests():
    samples = Samples()
    opened = [samples.opened(offset) for offset in [0.0, 0.0, 30.0, 30.0, 30.0] + [0.0, 0.0, 30.0, 30.0] * 3]
    assert opened == [0, 0, 0, 4, 0, 0, 4] + [0] * 10
    assert torch.allclose(samples.core.shift, torch.tensor(15.0), atol=0.5)
    for offset in (0.0, 30.0):
        x = torch.randn(500, 4) + offset
        assert bool((mean_relative_slope(samples.core.alpha * (x - samples.core.shift)) > 0.7).all())


def test_a_core_whose_data_move_on_and_on_is_opened_again_and_again():
    samples = Samples()
    assert [samples.opened(offset) for offset in [0.0, 30.0, 30.0, 60.0, 60.0, 90.0, 90.0]] == [*(0, 0, 4, 0, 4, 0, 4)]
