"""The equations of benchmarks/pinn.py: their solutions agree with others, and their residuals are right."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import pinn
from pde import PROBLEMS, allen_cahn, burgers, helmholtz, poisson
from pde.methods import METHODS, Adaptive, LocallyAdaptiveTanh, slope_recovery


def test_burgers_solution_is_that_of_a_fourier_series_and_does_not_depend_on_the_quadrature():
    count = 1024
    x = 2 * np.arange(count) / count - 1
    wave = 1j * np.pi * np.fft.rfftfreq(count, 1 / count)
    kept = np.abs(wave) < 2 / 3 * np.abs(wave).max()

    def rate(_, u):
        by_x = np.fft.irfft(wave * kept * np.fft.rfft(u * u / 2))
        return burgers.NU * np.fft.irfft(wave**2 * np.fft.rfft(u)) - by_x

    times = [0.1, 0.35, 1.0]
    found = solve_ivp(rate, (0, 1), -np.sin(np.pi * x), method="RK45", t_eval=times, rtol=1e-6, atol=1e-8).y
    at = np.stack([axis.ravel() for axis in np.meshgrid(x, times, indexing="ij")], 1)
    values = burgers.solution(at)
    assert np.abs(found.ravel() - values).max() < 1e-5
    assert np.abs(values - burgers.solution(at, nodes=100)).max() < 1e-10


def test_allen_cahn_solution_is_that_of_finite_differences():
    """Two grids give an error of second order, which their difference removes."""
    times, found = [0.1, 0.5, 1.0], {}
    for count in (500, 1000):
        x = np.linspace(-1, 1, count + 1)

        def rate(_, w, step=2 / count):
            u = np.concatenate([[-1.0], w, [-1.0]])
            return 0.001 * (u[2:] - 2 * w + u[:-2]) / step**2 + 5 * (w - w**3)

        start = (x**2 * np.cos(np.pi * x))[1:-1]
        banded = {"lband": 1, "uband": 1, "rtol": 1e-7, "atol": 1e-9}
        found[count] = solve_ivp(rate, (0, 1), start, method="LSODA", t_eval=times, **banded).y
    x = np.linspace(-1, 1, 501)[1:-1]
    at = np.stack([axis.ravel() for axis in np.meshgrid(x, times, indexing="ij")], 1)
    extrapolated = (4 * found[1000][1::2] - found[500]) / 3
    assert np.abs(extrapolated.ravel() - allen_cahn.solution(at)).max() < 2e-5


def test_allen_cahn_solution_does_not_depend_on_modes_and_steps():
    at = PROBLEMS["allen_cahn"].grid(2500)
    values = allen_cahn.solution(at)
    assert np.abs(values - allen_cahn.solution(at, modes=1023)).max() < 1e-6
    assert np.abs(values - allen_cahn.solution(at, steps=200)).max() < 1e-6


@pytest.mark.parametrize(("module", "coarse", "fine"), [(helmholtz, 16, 28), (poisson, 40, 70)])
def test_collocation_of_the_source_gives_the_solution(module, coarse, fine):
    errors = [np.abs(found - module.solution(at)).max() for at, found in map(module.solved, (coarse, fine))]
    assert errors[1] < 1e-8
    assert errors[1] < 1e-3 * errors[0]


def residual(name, function, points):
    at = torch.as_tensor(points, dtype=torch.float64).clone().requires_grad_()
    return PROBLEMS[name].residual(function(at), at).detach()


def test_residuals_are_those_of_the_equations():
    at = torch.rand(50, 2, dtype=torch.float64)
    x, t = at.unbind(1)
    u = x**3 * t**2  # whose derivatives are known

    def cubic(at):
        return at[:, 0] ** 3 * at[:, 1] ** 2

    found = residual("burgers", cubic, at)
    torch.testing.assert_close(found, 2 * x**3 * t + u * 3 * x**2 * t**2 - burgers.NU * 6 * x * t**2)
    found = residual("allen_cahn", cubic, at)
    torch.testing.assert_close(found, 2 * x**3 * t - 0.001 * 6 * x * t**2 - 5 * (u - u**3))


@pytest.mark.parametrize("name", ["helmholtz", "poisson"])
def test_the_solution_has_no_residual_and_another_function_has(name):
    problem, waves = PROBLEMS[name], {"helmholtz": helmholtz, "poisson": poisson}[name].WAVES

    def solution(at):
        if name == "helmholtz":
            return torch.sin(waves[0] * math.pi * at[:, 0]) * torch.sin(waves[1] * math.pi * at[:, 1])
        return sum(a * torch.sin(k * at[:, 0]) for a, k in waves)

    at = problem.grid(400)
    np.testing.assert_allclose(solution(torch.tensor(at)).numpy(), problem.solution(at), atol=1e-12)
    assert float(residual(name, solution, at).abs().max()) < 1e-10
    size = float(residual(name, lambda at: 0 * at.sum(1) * at[:, 0], at).square().mean().sqrt())
    assert 0.5 < size < 1.5


@pytest.mark.parametrize("name", ["burgers", "allen_cahn"])
def test_the_solution_in_time_obeys_its_equation(name):
    """By differences of the reference."""
    problem, h = PROBLEMS[name], 1e-3
    at = np.random.default_rng(0).uniform((-0.9, 0.05), (-0.2, 0.2), (200, 2))

    def moved(x, t):
        return problem.solution(at + np.array([x * h, t * h]))

    u = moved(0, 0)
    by_t = (moved(0, 1) - moved(0, -1)) / (2 * h)
    by_x = (moved(1, 0) - moved(-1, 0)) / (2 * h)
    by_x_twice = (moved(1, 0) - 2 * u + moved(-1, 0)) / h**2
    left = (
        by_t + u * by_x - burgers.NU * by_x_twice if name == "burgers" else by_t - 0.001 * by_x_twice - 5 * (u - u**3)
    )
    assert np.abs(left).max() < 2e-3 * np.abs(by_t).max()


@pytest.mark.parametrize("name", PROBLEMS)
def test_boundary_and_initial_values_are_those_of_the_solution_whatever_the_network_says(name):
    problem = PROBLEMS[name]
    at = problem.grid(900)
    edge = np.zeros(len(at), bool)
    for axis in range(at.shape[1]):
        edge |= at[:, axis] == problem.low[axis]
        if not (name in ("burgers", "allen_cahn") and axis == 1):  # the last moment is free
            edge |= at[:, axis] == problem.high[axis]
    points, network = torch.tensor(at), torch.randn(len(at), dtype=torch.float64)
    found = problem.bounded(points, network).numpy()
    np.testing.assert_allclose(found[edge], problem.solution(at)[edge], atol=1e-9)
    assert np.abs(found - problem.solution(at))[~edge].min() > 0


@pytest.mark.parametrize("name", PROBLEMS)
def test_points_fill_the_box_and_a_network_reads_them_from_minus_one_to_one(name):
    problem = PROBLEMS[name]
    at = problem.sample(4000, torch.Generator().manual_seed(0))
    low, high = at.amin(0).tolist(), at.amax(0).tolist()
    assert low == pytest.approx(problem.low, abs=0.01)
    assert high == pytest.approx(problem.high, abs=0.01)
    assert problem.unit(at).amin(0).tolist() == pytest.approx([-1] * len(low), abs=0.01)
    assert problem.unit(at).amax(0).tolist() == pytest.approx([1] * len(low), abs=0.01)


def test_all_methods_have_the_same_linear_layers_and_as_many_tries():
    x = torch.rand(100, 2)
    shapes = set()
    for method in METHODS.values():
        model = method.make(x, 8, 3, **method.tries[0]).model
        shapes.add(tuple(tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)))
    assert shapes == {((8, 2), (8, 8), (8, 8), (1, 8))}
    assert len({len(method.tries) for method in METHODS.values()}) == 1


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


def test_adaptive_functions_scale_and_shift_within_and_without():
    layer = Adaptive(torch.sigmoid)
    with torch.no_grad():
        for name, value in (("alpha", 3.0), ("beta", 2.0), ("gamma", -1.0)):
            getattr(layer, name).fill_(value)
    assert layer(torch.tensor(1.5)).item() == pytest.approx(3 / (1 + math.exp(-2)))


@pytest.mark.parametrize("name", METHODS)
def test_a_training_lowers_the_error_and_can_be_repeated(name):
    method = METHODS[name]

    def error(steps):
        settings = method.tries[-2]
        return pinn.trained(PROBLEMS["burgers"], method.make, settings, depth=2, seed=0, steps=steps, width=8)

    first = error(1)
    assert error(40) < first
    assert error(1) == first


def test_a_training_is_another_without_clipping():
    method = METHODS["tanh"]
    run = partial(pinn.trained, PROBLEMS["burgers"], method.make, method.tries[-1], depth=2, seed=0, steps=3, width=8)
    assert run(clip=0) == run(clip=1e30) != run(clip=0.3) == run()


def test_a_training_that_explodes_has_an_infinite_error():
    make = METHODS["adaptive tanh"].make
    assert pinn.trained(PROBLEMS["burgers"], make, {"rate": 1e20}, depth=2, seed=0, steps=20, width=8) == math.inf
