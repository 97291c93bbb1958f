"""The networks of benchmarks/physics follow the formulas of their papers."""

import math

import pytest
import torch
from torch import nn

from physics import METHODS
from physics.methods.adaptive import Adaptive, LocallyAdaptiveTanh, slope_recovery
from physics.methods.factorised import FactorisedLinear

POINTS = 2 * torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) - 1
BASE = {"tanh", "l-laaf", "n-laaf", "adaptive-tanh"}


def made(name, width=6, depth=3, outputs=2):
    torch.manual_seed(0)
    return METHODS[name].build(POINTS, width, depth, outputs)


def dense(x, layer):
    return x @ layer.weight.T + layer.bias


def factorised(x, layer):
    return x @ (torch.diag(layer.s.exp()) @ layer.v).T + layer.bias


@pytest.mark.parametrize("name", METHODS)
def test_a_network_has_second_derivatives_is_repeatable_and_names_its_paper(name):
    model, x = made(name), POINTS.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(x)[:, 1].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), x)
    assert model(x).shape == (60, 2)
    assert float(second.abs().max()) > 0
    assert torch.equal(model(x), made(name)(x))
    assert len(METHODS[name].source) > 8
    assert len(METHODS[name].rates) == 3


def test_networks_of_tanhs_begin_alike_and_are_layers_of_tanhs_with_glorots_weights():
    model = made("tanh")
    first, _, second, _, third, _, last = model
    h = POINTS
    for layer in (first, second, third):
        h = torch.tanh(dense(h, layer))
    for name in BASE:
        torch.testing.assert_close(made(name)(POINTS), dense(h, last))
    weight = made("tanh", width=200)[2].weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / 400), rel=0.02)


def test_orthogonal_weights_are_orthogonal():
    weight = made("tanh-orthogonal")[2].weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)


def test_residual_layers_add_their_input():
    model = made("residual")
    h = torch.tanh(dense(POINTS, model[0]))
    for block in model[2:-1]:
        h = h + torch.tanh(dense(h, block.layer))
    assert len(model) == 5
    torch.testing.assert_close(model(POINTS), dense(h, model[-1]))


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
    assert METHODS["l-laaf"].penalty is METHODS["n-laaf"].penalty is slope_recovery


def test_adaptive_tanh_scales_and_shifts_within_and_without():
    layer = Adaptive(torch.tanh)
    with torch.no_grad():
        for name, value in (("alpha", 3.0), ("beta", 2.0), ("gamma", -1.0)):
            getattr(layer, name).fill_(value)
    assert layer(torch.tensor(1.5)).item() == pytest.approx(3 * math.tanh(2))


def test_factorised_weights_are_a_scale_for_each_neuron_times_vectors():
    model = made("weight-factorisation")
    h = POINTS
    for layer in model[:-1:2]:
        h = torch.tanh(factorised(h, layer))
    torch.testing.assert_close(model(POINTS), factorised(h, model[-1]))
    torch.manual_seed(0)
    layer = FactorisedLinear(300, 200)
    assert float(layer.s.detach().mean()) == pytest.approx(1.0, abs=0.02)
    assert float(layer.s.detach().std()) == pytest.approx(0.1, abs=0.02)
    assert float((layer.s.exp().unsqueeze(1) * layer.v).detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.02)


def test_sines_keep_their_size_through_the_layers():
    """The paper: the arguments of hidden sines, without biases, have deviation 1 at any depth."""
    torch.manual_seed(0)
    model = METHODS["siren"].build(POINTS, 300, 12, 1)
    h = POINTS
    for block in model[:-1]:
        argument = 30 * dense(h, block.layer)
        h = torch.sin(argument)
    weighted = (argument - 30 * block.layer.bias).detach()
    assert float(weighted.std()) == pytest.approx(1.0, abs=0.1)
    torch.testing.assert_close(model(POINTS), dense(h, model[-1]))


def test_fourier_features_are_cosines_and_sines_of_random_frequencies_that_are_not_trained():
    model = made("fourier-features")
    z = POINTS @ model[0].frequencies
    torch.testing.assert_close(model(POINTS), model[1](torch.cat([z.cos(), z.sin()], 1)))
    assert not any(parameter is model[0].frequencies for parameter in model.parameters())
    frequencies = made("fourier-features", width=2000)[0].frequencies
    assert float(frequencies.std()) == pytest.approx(2 * math.pi, rel=0.05)


def test_the_modified_mlp_mixes_two_encodings_in_every_hidden_layer():
    model = made("modified-mlp")
    u, v = torch.tanh(dense(POINTS, model.u)), torch.tanh(dense(POINTS, model.v))
    h = torch.tanh(dense(POINTS, model.first))
    for layer in model.hidden:
        z = torch.tanh(dense(h, layer))
        h = (1 - z) * u + z * v
    assert len(model.hidden) == 2
    torch.testing.assert_close(model(POINTS), dense(h, model.last))


def test_pirate_nets_begin_linear_in_their_features_and_open_by_alpha():
    model = made("piratenet", depth=8)
    features = model.features(POINTS)
    assert len(model.blocks) == 3
    torch.testing.assert_close(model(POINTS), factorised(features, model.last))
    u, v = (torch.tanh(factorised(features, gate)) for gate in (model.u, model.v))
    x = features
    for alpha, block in zip((0.2, 0.5, 1.0), model.blocks, strict=True):
        nn.init.constant_(block.alpha, alpha)
        f = torch.tanh(factorised(x, block.f))
        g = torch.tanh(factorised(f * u + (1 - f) * v, block.g))
        h = torch.tanh(factorised(g * u + (1 - g) * v, block.h))
        x = alpha * h + (1 - alpha) * x
    torch.testing.assert_close(model(POINTS), factorised(x, model.last))


def test_sigmoid_core_is_prepared_without_a_knob_and_the_plain_network_has_its_own_rates():
    model, plain = made("sigmoid-core"), made("sigmoid-core-plain")
    assert model.is_prepared
    assert len(METHODS["sigmoid-core"].groups(model, 0.001)) == 1
    assert len(METHODS["sigmoid-core-plain"].groups(plain, 0.01)) > 1
    assert not METHODS["sigmoid-core"].equalizes
    assert METHODS["sigmoid-core-equalizer"].equalizes
