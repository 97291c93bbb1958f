"""Methods that are an activation and first weights: against their formulas, and numbers that their papers state."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from support.problems import problem
from torch import nn

from peers import find
from peers.methods.lsuv import TOLERANCE
from peers.methods.sigmoid import ScaledSigmoid
from peers.weights import weighted


@torch.no_grad()
def signals(model, x):
    """Inputs of every layer, and the outputs."""
    found = []
    for layer in model:
        if isinstance(layer, nn.Linear):
            found.append(x)
        x = layer(x)
    return [*found, x]


def test_the_scaled_sigmoids_weights_fill_the_interval_of_glorots_paper():
    for layer in weighted(find("sigmoid-scaled").network(problem(width=60, depth=4))):
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.9 * bound < layer.weight.abs().max().item() <= bound
        assert not layer.bias.any()


def test_the_scaled_sigmoid_is_two_tanhs_of_half_its_input_with_slope_1_at_0():
    x = torch.linspace(-5, 5, 21, dtype=torch.float64, requires_grad=True)
    y = ScaledSigmoid()(x)
    torch.testing.assert_close(y, 2 * torch.tanh(x / 2))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[10] == slope.max() == 1


@pytest.mark.parametrize("gain", [1.0, 1.02, 1.05])
def test_all_singular_values_of_orthogonal_layers_are_the_gain_and_of_their_jacobian_its_power(gain):
    model = find("tanh-orthogonal").network(problem(depth=30), gain)
    for layer in weighted(model):
        values = torch.linalg.svdvals(layer.weight.detach())
        torch.testing.assert_close(values, torch.full_like(values, gain))
    hidden = model[2:-1]  # of equal widths
    jacobian = torch.autograd.functional.jacobian(lambda x: hidden(x), torch.zeros(16))
    torch.testing.assert_close(torch.linalg.svdvals(jacobian), torch.full((16,), gain**29))


def test_orthogonal_kernels_are_orthogonal_at_the_centre_and_zero_elsewhere():
    _, _, *unstrided, _ = weighted(find("tanh-orthogonal").network(problem("conv", depth=5), 1.0))
    for layer in unstrided:
        centre = layer.weight[:, :, 1, 1].detach()
        torch.testing.assert_close(centre @ centre.T, torch.eye(16))
        assert layer.weight.square().sum().item() == pytest.approx(16)


def test_hes_weights_keep_the_mean_square_that_xaviers_halve_in_every_layer():
    """He et al. (2015), equation 10: half of the fan-in times the variance of the weights is 1."""
    x = torch.randn(200, 6)
    for draw, kept in ((find("relu-he").build, 1.0), (lambda p: xavier_relu(p), 0.5)):
        ratios = []
        for seed in range(5):
            torch.manual_seed(seed)
            first, *_, last = signals(draw(problem(width=300, depth=20)), x)[1:-1]
            ratios.append(float(last.square().mean() / first.square().mean()) ** (1 / 19))
        assert np.mean(ratios) == pytest.approx(kept, rel=0.03)


def xavier_relu(given):
    model = given.plain(lambda width: nn.ReLU())
    for layer in weighted(model):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def test_selu_has_the_fixed_point_of_mean_0_and_variance_1():
    """Klambauer et al. (2017): alpha is about 1.6733 and lambda about 1.0507."""
    (selu,) = {type(m): m for m in find("selu").network(problem()).modules() if isinstance(m, nn.SELU)}.values()

    def y(x):
        return float(selu(torch.tensor(x, dtype=torch.float64)))

    assert y(1.0) == pytest.approx(1.0507, abs=5e-5)
    assert y(-50.0) == pytest.approx(-1.0507 * 1.6733, abs=2e-4)
    first, second = (quad(lambda x, p=p: y(x) ** p * norm.pdf(x), -12, 12, points=[0])[0] for p in (1, 2))
    assert first == pytest.approx(0, abs=1e-6)
    assert second == pytest.approx(1, abs=1e-6)


def test_selu_keeps_mean_and_variance_through_fifty_layers():
    model = find("selu").network(problem(width=256, depth=50))
    last = signals(model, torch.randn(200, 6))[-2]
    assert abs(float(last.mean())) < 0.2
    assert float(last.var()) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_lsuv_gives_every_layer_outputs_of_variance_1_and_multiples_of_orthogonal_weights(kind):
    given = problem(kind, depth=8)
    x = given.inputs
    for layer in find("lsuv").network(given):
        x = layer(x)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            assert abs(x.var().item() - 1) < TOLERANCE
            values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
            torch.testing.assert_close(values, values.mean().expand_as(values))


@pytest.mark.parametrize(("name", "over"), [("batchnorm", 0), ("batchnorm-sigmoid", 0), ("layernorm", 1)])
def test_activations_get_preactivations_of_mean_0_and_variance_1(name, over):
    given = problem(depth=5)
    model = find(name).network(given)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.Sigmoid):
            module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(given.inputs)
    assert len(seen) == 5
    for x in seen:
        torch.testing.assert_close(x.mean(over), torch.zeros(x.shape[1 - over]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(over, correction=0), torch.ones(x.shape[1 - over]), atol=0.05, rtol=0)
