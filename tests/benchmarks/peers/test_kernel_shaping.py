"""DKS and TAT: the conditions of the papers, by quadrature and by wide networks."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad
from scipy.stats import norm
from support.problems import problem

from peers import find
from peers.methods.kernel_shaping import ShapedTanh, TailoredReLU, leaky_relu_map, scaled_orthogonal


def expected(function):
    return quad(lambda x: function(x) * norm.pdf(x), -12, 12, epsabs=1e-12, limit=200)[0]


@pytest.mark.parametrize(("zeta", "depth"), [(1.5, 10), (1.5, 1000), (1.1, 100), (3.0, 30)])
def test_the_shaped_tanh_fulfils_the_four_conditions(zeta, depth):
    f = ShapedTanh(zeta ** (1 / depth))

    def y(x):
        return float(f(torch.tensor(x, dtype=torch.float64)))

    def slope(x):
        return f.output_scale * f.input_scale / math.cosh(f.input_scale * x + f.input_shift) ** 2

    assert expected(lambda x: y(x) ** 2) == pytest.approx(1, abs=1e-8)  # Q(1) = 1
    assert expected(lambda x: y(x) * slope(x) * x) == pytest.approx(1, abs=1e-8)  # Q'(1) = 1
    assert expected(y) == pytest.approx(0, abs=1e-8)  # C(0) = 0
    assert expected(lambda x: slope(x) ** 2) ** depth == pytest.approx(zeta, rel=1e-5)  # C'(1), of all layers


@pytest.mark.parametrize("a", [0.0, 0.3])
def test_the_c_map_of_a_leaky_relu_is_the_mean_product_over_two_correlated_normals(a):
    def y(x):
        return math.sqrt(2 / (1 + a**2)) * (x if x > 0 else a * x)

    for c in (0.5,):
        found = 0.0
        for low, high in ((-8, 0), (0, 8)):  # the kink is at a border
            s = math.sqrt(1 - c**2)

            def product(v, u, c=c, s=s):
                return y(u) * y(c * u + s * v) * norm.pdf(u) * norm.pdf(v)

            for edges in (((-8), lambda u, c=c, s=s: -c * u / s), ((lambda u, c=c, s=s: -c * u / s), 8)):
                found += dblquad(product, low, high, *edges, epsabs=1e-7)[0]
        assert leaky_relu_map(c, a) == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize(("eta", "depth"), [(0.9, 20), (0.9, 100), (0.8, 50)])
def test_the_tailored_relu_takes_correlation_0_to_eta(eta, depth):
    a = TailoredReLU(eta, depth).negative_slope
    c = 0.0
    for _ in range(depth):
        c = leaky_relu_map(c, a)
    assert c == pytest.approx(eta, abs=1e-9)
    assert 0 < a < 1


def test_a_relu_that_does_not_reach_eta_stays_a_relu():
    assert TailoredReLU(0.9, 1).negative_slope == 0


@pytest.mark.parametrize(("name", "knob", "map"), [("tat", 0.8, 0.8), ("dks", 1.5, 0.0)])
def test_two_orthogonal_inputs_of_a_wide_network_have_the_correlation_of_the_map_and_keep_their_size(name, knob, map):
    depth, width = 6, 800
    model = find(name).network(problem(width=width, depth=depth), knob)
    hidden = model[2:-1]  # from a first layer's outputs on
    x = torch.linalg.qr(torch.randn(width, 2))[0].T * math.sqrt(width)
    one, other = hidden(x).detach()
    sizes = [float(v.square().mean()) for v in (one, other)]
    np.testing.assert_allclose(sizes, 1, atol=0.25)
    c = 0.0
    if name == "tat":
        for _ in range(depth - 1):
            c = leaky_relu_map(c, TailoredReLU(knob, depth).negative_slope)
    assert float(torch.cosine_similarity(one, other, dim=0)) == pytest.approx(c, abs=0.06)
    assert c <= map


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (12, 5, 3, 3), (5, 12, 3, 3)])
def test_scaled_orthogonal_weights_keep_the_mean_square_of_any_input_or_lose_the_rest(shape):
    weight = scaled_orthogonal(torch.empty(shape))
    centre = weight if len(shape) == 2 else weight[:, :, 1, 1]
    assert float(weight.square().sum()) == pytest.approx(float(centre.square().sum()))
    out, inputs = shape[:2]
    if out >= inputs:  # the mean over more numbers is the same
        x = torch.randn(inputs)
        assert float((centre @ x).square().mean()) == pytest.approx(float(x.square().mean()), rel=1e-4)
    else:  # a projection
        torch.testing.assert_close(centre @ centre.T, torch.eye(out))
