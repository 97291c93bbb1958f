"""US503: neurons and modules that are equal, and stay so."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from unstuck_support.layers import chain, loud, rules, with_weight
from unstuck_support.measurements import changed

import unstuck
from unstuck.measure.measurement import Weight


def test_gains_of_one_beside_random_weights_are_not_identical_neurons():
    found = chain(1.0, 1.0)
    gain = Weight("0.gain", (found.weights[0].shape[0], 1, 1, 1), size=1.4, gradient=1.0, alike=True)
    layers = (replace(found.layers[0], weights=("0.weight", "0.gain")), *found.layers[1:])
    assert rules(replace(found, layers=layers, weights=(*found.weights, gain))) == []
    alone = (replace(found.layers[0], weights=("0.gain",)), *found.layers[1:])
    assert rules(replace(found, layers=alone, weights=(gain, *found.weights[1:]))) == ["US503"]


def test_identical_neurons_explain_other_findings():
    found = with_weight(chain(1e-9, 1e-9, 1.0), "0.weight", alike=True)
    assert rules(found) == ["US503"]


@pytest.mark.parametrize(
    ("name", "healthy"),
    [
        ("4.weight", {}),
        ("0.weight", {"trains": False}),
        ("0.weight", {"shape": (1, 10)}),
        ("0.weight", {"shape": (10,)}),
        ("2.weight", {"shape": (10, 1, 3, 3)}),
    ],
    ids=["output", "frozen", "one row", "norm", "depthwise"],
)
def test_rows_may_be_identical_if_they_are_frozen_or_read_different_inputs(name, healthy):
    assert rules(with_weight(chain(1.0, 1.0, 1.0), name, alike=True, **healthy)) == []


def test_embeddings_may_start_identical():
    found = changed(with_weight(chain(1.0, 1.0), "0.weight", alike=True), 0, kind="Embedding")
    assert rules(found) == []


def test_deviations_of_a_bayesian_layer_may_be_identical():
    found = changed(chain(1.0, 1.0, 1.0), 0, weights=("0.mean", "0.rho"))
    mean, rho = Weight("0.mean", (10, 10), size=1.0, gradient=1.0), Weight("0.rho", (10, 10), size=1.0, alike=True)
    both = replace(found, weights=(*found.weights[1:], mean, replace(rho, gradient=1.0)))
    assert rules(both) == []
    assert rules(with_weight(both, "0.mean", alike=True)) == ["US503"]


class Noisy(nn.Module):
    """The mean of a Bayesian layer and its deviation, as two layers whose outputs are added."""

    def __init__(self, same):
        super().__init__()
        self.mean, self.deviation, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        nn.init.constant_(self.deviation.weight, 0.1)
        if same:
            nn.init.constant_(self.mean.weight, 0.2)

    def forward(self, x):
        return self.last((self.mean(x) + self.deviation(x) * 0.1).tanh())


@pytest.mark.parametrize(("same", "expected"), [(False, []), (True, ["US503"])])
def test_neurons_may_be_identical_if_others_are_added(same, expected):
    found = unstuck.diagnose(Noisy(same), torch.randn(64, 8), torch.randn(64, 3), nn.functional.mse_loss)
    assert loud(found) == expected
