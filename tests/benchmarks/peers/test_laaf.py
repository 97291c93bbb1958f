"""Locally adaptive tanh: against its formulas."""

import math

import pytest
import torch
from support.problems import problem
from torch import nn

from sigmoidcore.peers import find
from sigmoidcore.peers.methods.laaf import LocallyAdaptiveTanh, slope_recovery
from sigmoidcore.training import Recipe, Split, Training


@pytest.mark.parametrize("width", [None, 5])
def test_locally_adaptive_tanh_begins_as_tanh_and_learns_its_slope(width):
    layer, x = LocallyAdaptiveTanh(width), torch.randn(7, 5)
    torch.testing.assert_close(layer(x), torch.tanh(x))
    layer(x).sum().backward()
    by_slope = 10 * x / x.cosh().square()
    torch.testing.assert_close(layer.a.grad, by_slope.sum() if width is None else by_slope.sum(0))


def test_slope_recovery_is_one_over_the_mean_exponential_of_the_layers_mean_slopes():
    model = nn.Sequential(LocallyAdaptiveTanh(2), nn.Linear(2, 2), LocallyAdaptiveTanh(None))
    with torch.no_grad():
        model[0].a.copy_(torch.tensor([0.2, 0.6]))
        model[2].a.fill_(0.5)
    assert slope_recovery(model).item() == pytest.approx(2 / (math.exp(0.4) + math.exp(0.5)))


@pytest.mark.parametrize(("name", "slopes"), [("laaf-layer", 4), ("laaf-neuron", 4 * 16)])
def test_slope_recovery_is_part_of_the_loss_and_raises_slopes(name, slopes):
    method, given = find(name), problem(depth=4)
    data = Split("two classes", given.inputs, given.targets, given.inputs, given.targets, classes=2)
    means = []
    for penalty in (method.recipe["penalty"], None):
        torch.manual_seed(0)
        model = method.network(given)
        before = given.loss_fn(model(given.inputs), given.targets).item()
        recipe = Recipe(epochs=30, lr=0.001, **{**method.training(), "penalty": penalty})
        losses = Training(model, data, recipe).run().losses
        expected = before + (1 / math.exp(0.1) if penalty else 0)
        assert losses[0] == pytest.approx(expected, rel=1e-5)
        found = [p for n, p in model.named_parameters() if n.endswith(".a")]
        assert sum(p.numel() for p in found) == slopes
        means.append(torch.cat([p.flatten() for p in found]).mean().item())
    assert means[0] > means[1]
