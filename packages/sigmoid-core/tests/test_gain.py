"""The formulas and solvers of gain.py, against mpmath, SciPy quadrature, explicit Jacobians and Monte Carlo."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import nn

from sigmoidcore import SigmoidCore
from sigmoidcore.gain import (
    gradient_size,
    local_derivative,
    mean_relative_slope,
    relative_slope,
    set_to_level,
    slope_for_gain,
    tangential_weights,
)

DTYPES = (torch.float32, torch.float64)
STEEPEST = brentq(lambda z: z * math.tanh(z / 2) - 1, 1, 2)
"""z at which the local derivative is largest over the slope."""
SCALES = (1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30)


def exact_sigmoid(z):
    return 1 / (1 + mp.exp(-z))


def exact_relative_slope(z):
    """4 sigma'(z), differentiated by hand from 1 / (1 + exp(-z)), to 50 digits."""
    with mp.workdps(50):
        e = mp.exp(-abs(mp.mpf(z)))
        return 4 * e / (1 + e) ** 2


def numpy_gain(x, alpha, weights=1.0):
    """sqrt(mean(d^2 weights)) in float64, with sigma' = 1 / (4 cosh(z/2)^2)."""
    x = np.asarray(x, dtype=np.float64)
    d = alpha / 4 / np.cosh(np.clip(alpha * x / 2, -350, 350)) ** 2
    return math.sqrt(np.mean(d**2 * weights))


@pytest.mark.parametrize(
    ("dtype", "furthest", "tolerance"), [(torch.float64, 700.0, 2e-15), (torch.float32, 80.0, 1e-6)]
)
def test_relative_slope_keeps_its_relative_precision_out_to_the_last_tail(dtype, furthest, tolerance):
    rng = np.random.default_rng(0)
    special = [0.0, 1e-30, 1e-3, 1.0, STEEPEST, 20.0, 40.0, furthest]
    z = torch.tensor([*special, *(-np.array(special)), *rng.uniform(-furthest, furthest, 200)], dtype=dtype)
    s = relative_slope(z)
    assert s.dtype == dtype
    for value, result in zip(z.tolist(), s.tolist(), strict=True):
        exact = exact_relative_slope(value)
        assert abs(result - exact) <= tolerance * exact, value


@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_slope_is_0_and_never_nan_beyond_the_range_of_exp(dtype):
    z = torch.tensor([-math.inf, -1e30, -800.0, 800.0, 1e30, math.inf], dtype=dtype)
    assert relative_slope(z).tolist() == [0.0] * 6


def test_local_derivative_is_the_derivative_of_the_output_by_x():
    # Every product and difference below is exact in binary, so that the tails show the function's error alone.
    cases = [(0.0, 1.0, 0.0), (1.0, 4.0, 1.0), (0.75, 2.0, 0.25), (-3.5, 0.5, 2.0), (5.0, 8.0, -1.0)]
    cases += [(87.5, 8.0, 0.0), (-87.5, 8.0, 0.0), (700.0, 1.0, 0.0), (-350.0, 2.0, 0.0), (1.0, 1024.0, 0.5)]
    for x, alpha, shift in cases:
        d = float(local_derivative(torch.tensor(x, dtype=torch.float64), alpha, shift))
        with mp.workdps(700):  # a finite difference of outputs near 1 needs digits beyond exp(-700)
            exact = mp.diff(lambda t, a=alpha, m=shift: exact_sigmoid(a * (t - m)), mp.mpf(x), h=mp.mpf(10) ** -350)
        assert d == pytest.approx(float(exact), rel=4e-15, abs=0), (x, alpha, shift)


@pytest.mark.parametrize("shape", [(7, 4), (3, 5, 2, 4), (1, 4)])
def test_mean_relative_slope_is_the_mean_over_all_but_the_neurons(shape):
    z = torch.randn(shape, dtype=torch.float64) * 3
    result = mean_relative_slope(z)
    assert result.shape == (4,)
    rows = z.numpy().reshape(-1, 4)
    for neuron in range(4):
        loop = sum(1 / math.cosh(v / 2) ** 2 for v in rows[:, neuron]) / len(rows)
        assert float(result[neuron]) == pytest.approx(loop, rel=1e-12)


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 2, 2), (1, 4), (6,)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_size_is_the_root_mean_square_of_the_samples_norms(shape, dtype):
    g = torch.randn(shape, dtype=dtype)
    total = 0.0
    for sample in g.double().numpy():
        total += float(np.sum(np.square(sample)))
    assert float(gradient_size(g)) == pytest.approx(math.sqrt(total / shape[0]), rel=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_gradient_size_is_proportional_from_1e_minus_30_to_1e30_in_float32(scale):
    g = torch.randn(8, 16)
    assert float(gradient_size(g * scale)) / scale == pytest.approx(float(gradient_size(g)), rel=1e-5)


def test_tangential_weights_are_the_mean_squares_of_vectors_drawn_evenly_orthogonal_to_x():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 6)) * [[1], [10], [0.1], [3]]
    weights = tangential_weights(torch.tensor(x)).numpy()
    for sample, expected in zip(x, weights, strict=True):
        v = rng.normal(size=(100_000, 6))
        v -= np.outer(v @ sample, sample) / (sample @ sample)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        # Standard error of a mean square here: below 0.005.
        np.testing.assert_allclose(np.mean(v**2, axis=0) * 6, expected, atol=0.02)


def test_tangential_weights_are_1_for_samples_of_zeros_and_for_one_neuron():
    mixed = tangential_weights(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]))
    np.testing.assert_allclose(mixed[0], 1.0, rtol=1e-6)
    assert tangential_weights(torch.tensor([[5.0], [0.0]])).tolist() == [[1.0], [1.0]]


def linear_and_core(batch=6, inputs=5, outputs=4, alpha=2.5):
    """The segment, a batch of the outputs of the core before it, and each sample's Jacobian [outputs, inputs]."""
    segment = nn.Sequential(nn.Linear(inputs, outputs), SigmoidCore(outputs, alpha=alpha)).double()
    segment[1].set_shift(torch.randn(outputs))
    nn.init.orthogonal_(segment[0].weight)
    y = torch.randn(batch, inputs, dtype=torch.float64)
    jacobians = torch.stack([torch.autograd.functional.jacobian(segment, sample) for sample in y])
    x = segment[0](y).detach()
    derivative = local_derivative(x, segment[1].slope, segment[1].shift)
    return derivative, segment[0].weight.detach().norm(dim=1), jacobians


def test_gain_with_tangential_weights_is_that_of_cotangents_orthogonal_to_the_signal():
    # Orthogonal rows, so that cotangents whose entries are correlated (they are orthogonal to the signal) add up.
    derivative, row_size, jacobians = linear_and_core()
    signal = torch.randn(6, 4, dtype=torch.float64)
    cotangents = torch.randn(50_000, 6, 4, dtype=torch.float64)
    along = (cotangents * signal).sum(2, keepdim=True) / signal.square().sum(1)[:, None]
    cotangents -= along * signal
    cotangents /= cotangents.norm(dim=2, keepdim=True)
    products = torch.einsum("sbo,boi->sbi", cotangents, jacobians)
    measured = float(products.square().sum(2).mean().sqrt())
    squares = (derivative * row_size).square()
    assert float((squares * tangential_weights(signal)).mean().sqrt()) == pytest.approx(measured, rel=0.01)
    assert float(squares.mean().sqrt()) != pytest.approx(measured, rel=0.01)


def quadrature_slope(deviation, target):
    """The slope for x ~ N(0, deviation^2), by adaptive quadrature of E[d^2] and Brent's method."""

    def error(log_alpha):
        alpha = math.exp(log_alpha)

        def integrand(t):
            sech = 1 / math.cosh(min(350.0, abs(alpha * deviation * t / 2)))
            return (alpha / 4) ** 2 * sech**4 * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

        width = min(1.0, 1 / (alpha * deviation))
        return math.log(2 * quad(integrand, 0, 40, points=[width, 4 * width, 16 * width], limit=200)[0]) / 2 - math.log(
            target
        )

    return math.exp(brentq(error, math.log(4 * target) - 1e-9, math.log(4 * target) + 12, xtol=1e-12))


@pytest.mark.parametrize("target", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("deviation", [1e-3, 0.1, 0.5, 2.0])
def test_slope_for_gain_is_that_of_scipys_quadrature_for_gaussian_preactivations(deviation, target):
    # Trapezoidal nodes: their weights enter as neurons' weights, so that no sampling error is left.
    t = np.linspace(-12, 12, 40_001)
    density = np.exp(-(t**2) / 2)
    x = torch.tensor(deviation * t)[None]
    alpha, reached = slope_for_gain(x, target, weights=torch.tensor(density / density.mean())[None])
    assert alpha == pytest.approx(quadrature_slope(deviation, target), rel=1e-5)
    assert reached == pytest.approx(target, rel=1e-6)


samples = st.lists(st.floats(-5, 5).map(lambda v: v**3), min_size=1, max_size=12).map(lambda v: [*v, 1e-3, -1e-3])
targets = st.floats(-2, 2).map(lambda e: 10**e)


@given(samples, targets, st.sampled_from(DTYPES))
def test_the_slope_reaches_the_target_and_is_never_below_four_times_it(x, target, dtype):
    tensor = torch.tensor([x], dtype=dtype)
    alpha, reached = slope_for_gain(tensor, target)
    assert alpha >= 4 * target * (1 - 1e-9)
    assert numpy_gain(tensor.numpy(), alpha) == pytest.approx(reached, rel=1e-4)
    if max(numpy_gain(tensor.numpy(), 4 * target * math.exp(0.1 * k)) for k in range(100)) > target:
        assert reached == pytest.approx(target, rel=1e-5)


def test_preactivations_of_zero_get_four_times_the_target():
    for target in (1e-20, 1.0, 1e20):
        alpha, reached = slope_for_gain(torch.zeros(3, 2), target)
        assert alpha == pytest.approx(4 * target, rel=1e-6, abs=0)
        assert reached == pytest.approx(target, rel=1e-6, abs=0)


PAIR = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
LARGEST = STEEPEST / 4 / math.cosh(STEEPEST / 2) ** 2


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_where_the_gain_has_a_maximum_the_smaller_of_the_two_slopes_that_reach_the_target_is_returned(share):
    target = share * LARGEST
    smaller = brentq(lambda a: numpy_gain([1.0], a) - target, 1e-6, STEEPEST)
    alpha, reached = slope_for_gain(PAIR, target)
    assert alpha == pytest.approx(smaller, rel=1e-5)
    assert reached == pytest.approx(target, rel=1e-6)


def test_of_three_slopes_that_reach_the_target_the_smallest_is_returned():
    # 99 neurons at |x| = 1 and one near 0: the gain rises, falls and rises again.
    x = torch.cat([torch.ones(1, 99), torch.full((1, 1), 1e-3)], dim=1).double()
    smallest = brentq(lambda a: numpy_gain(x, a) - 0.2, 1e-3, STEEPEST)
    assert slope_for_gain(x, 0.2)[0] == pytest.approx(smallest, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda v=v: slope_for_gain(torch.ones(2, 2), v), f"target must be a positive finite number, got {v}")
          for v in (0.0, -1.0, math.inf, math.nan)),
        (lambda: slope_for_gain(torch.ones(0, 2)), "x is empty: give at least one sample"),
    ],
)  # fmt: skip
def test_an_argument_out_of_range_is_an_error_that_names_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_preactivation_beyond_all_bounds_does_not_change_the_slope_of_the_others():
    x = torch.cat([torch.randn(50, 20, dtype=torch.float64) * 0.1, torch.full((1, 20), 1e300, dtype=torch.float64)])
    alpha, reached = slope_for_gain(x, 1.0)
    assert reached == pytest.approx(1.0, rel=1e-6)
    assert numpy_gain(x.numpy(), alpha) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("mean", "level"), [(0.0, 0.5), (-2.0, 1.0), (30.0, 1e-3)])
def test_a_preactivation_that_is_set_to_a_level_has_its_mean_and_size(mean, level, dtype):
    x = torch.randn(400, 3, dtype=dtype) * torch.tensor([0.1, 1.0, 50.0], dtype=dtype) + torch.tensor([1.0, -5.0, 9.0])
    columns = x.double().numpy().T
    size = torch.tensor([column.std() for column in columns], dtype=dtype)
    slope, shift = set_to_level(x.mean(0), size, mean, level)
    for column, a, s in zip(columns, slope.tolist(), shift.tolist(), strict=True):
        z = a * (column - s)
        assert (z.mean(), z.std()) == pytest.approx((mean, level), rel=1e-3, abs=1e-5)


@settings(max_examples=30)
@given(st.sampled_from(SCALES), st.sampled_from(DTYPES), st.integers(1, 3))
def test_nothing_is_non_finite_from_1e_minus_30_to_1e30(scale, dtype, batch):
    x = torch.randn(batch, 4, dtype=dtype) * scale
    for result in (
        relative_slope(x),
        local_derivative(x, 1 / scale),
        local_derivative(x, scale, scale),
        mean_relative_slope(x),
        gradient_size(x),
        tangential_weights(x),
    ):
        assert bool(torch.isfinite(result).all())
