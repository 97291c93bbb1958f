"""Where a method stands: the best setting and its basin, from results made by hand; and a small search."""

import pytest
import torch
from torch import nn

from compare_peers import Standing, Trial, standing
from peers import Method
from training import Split, train


def trial(accuracy, *, rate=0.1, knob=None):
    return Trial(knob, rate, accuracy, 1.0, 10)


def test_the_best_setting_has_the_highest_mean_over_the_seeds():
    one, other = [trial(90), trial(92)], [trial(99, rate=0.2), trial(80, rate=0.2)]
    assert Standing([other, one]).best == one


def test_a_setting_in_which_one_training_failed_is_the_best_only_if_there_is_no_other():
    failed, other = [trial(99), trial(None)], [trial(20, rate=0.2), trial(30, rate=0.2)]
    assert Standing([failed, other]).best == other
    assert Standing([failed]).best == failed


def test_rates_are_those_of_the_best_knob_in_order():
    settings = [[trial(95, knob=1.0, rate=0.3)], [trial(90, knob=1.0, rate=0.1)], [trial(94, knob=2.0, rate=0.1)]]
    assert list(Standing(settings).by_rate.items()) == [(0.1, 90), (0.3, 95)]


@pytest.mark.parametrize(
    ("accuracies", "basin"),
    [
        ((90, 97, 96, 95.1), 10),
        ((90, 97, 94.9, 90), 1),
        ((None, 95, 97, None), pytest.approx(10 / 3)),
        ((None,) * 4, None),
        ((90,), None),
    ],
)
def test_the_basin_is_the_largest_over_the_smallest_rate_within_two_points_of_the_best(accuracies, basin):
    rates = (0.001, 0.003, 0.01, 0.03)
    assert Standing([[trial(a, rate=r)] for a, r in zip(accuracies, rates, strict=False)]).basin == basin


def test_every_setting_is_trained_with_every_seed_as_alone():
    x = torch.randn(60, 6)
    y = (x.sum(1) > 0).long()
    data = Split("halves", x, y, x, y, classes=2)

    def linear(problem, knob=1.0):
        return nn.Linear(problem.features, problem.outputs)

    method = Method("knobs", "here", linear, knob="size", knobs=(0.5, 2.0), rates=(0.01, 0.1))
    found = standing(data, 3, method, 2, ())
    assert [[(t.knob, t.rate) for t in trials] for trials in found.settings] == [
        [setting] * 2 for setting in method.settings()
    ]
    torch.manual_seed(1)
    model = nn.Linear(6, 2)
    assert found.settings[3][1].accuracy == train(model, data, lr=0.1, seed=1, **method.training()).accuracies[-1]
    assert found.settings[3][1].parameters == 14
