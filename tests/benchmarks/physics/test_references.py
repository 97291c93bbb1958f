"""The references of benchmarks/physics agree with independent calculations, and solve the loss of their problem."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from physics import PROBLEMS
from physics.problems import (
    allen_cahn,
    burgers,
    heat_long,
    helmholtz,
    korteweg_de_vries,
    navier_stokes,
    poisson_holes,
    poisson_inverse,
    poisson_scales,
)
from physics.references import chebyshev


def pairs(x, y):
    """All (x, y), [x times y, 2]."""
    return np.stack([axis.ravel() for axis in np.meshgrid(x, y, indexing="ij")], 1)


class Differences:
    """Fields of a function in NumPy, whose derivatives are central differences."""

    def __init__(self, problem, function, points, steps):
        self.axes, self.function, self.points, self.steps = problem.axes, function, points, steps

    def at(self, axis):
        return torch.tensor(self.points[:, self.axes.index(axis)])

    def __call__(self, by="", of=0):
        return torch.tensor(self.derivative(self.points, by)[:, of])

    def derivative(self, at, by):
        if not by:
            return self.function(at)
        axis = self.axes.index(by[-1])
        step = np.eye(len(self.axes))[axis] * self.steps[axis]
        ahead, behind = self.derivative(at + step, by[:-1]), self.derivative(at - step, by[:-1])
        return (ahead - behind) / (2 * self.steps[axis])


SERIES = {"allen_cahn", "burgers", "kdv"}
"""Computed from their start: no time before it, and points away from the walls."""


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "navier_stokes"])
def test_the_reference_solves_every_term_of_its_loss_and_another_function_does_not(name):
    problem = PROBLEMS[name]
    solution = poisson_inverse.solution if name == "poisson_inverse" else problem.solution
    cube = torch.rand(240, len(problem.axes), generator=torch.Generator().manual_seed(0))
    size = 1e-3 if name in SERIES else 1e-4
    steps = size * (np.array(problem.high) - np.array(problem.low))
    placed = problem.placed(0.1 + 0.15 * cube if name in SERIES else cube).double().numpy()

    def wrong(at):
        return solution(at) + 0.1 + 0.1 * np.sin(2.3 * at.sum(1, keepdims=True))

    for term, rows in zip(problem.terms, problem.parts(240), strict=True):
        right, off = (
            float(term.residual(Differences(problem, function, placed[rows], steps)).square().mean().sqrt())
            for function in (solution, wrong)
        )
        if term.residual is poisson_inverse.measured:
            assert right == pytest.approx(poisson_inverse.NOISE, rel=0.2)
        else:
            assert right < 0.02 * off


def test_burgers_reference_is_that_of_a_fourier_series_and_does_not_depend_on_the_quadrature():
    count = 1024
    x = 2 * np.arange(count) / count - 1
    wave = 1j * np.pi * np.fft.rfftfreq(count, 1 / count)
    kept = np.abs(wave) < 2 / 3 * np.abs(wave).max()

    def rate(_, u):
        by_x = np.fft.irfft(wave * kept * np.fft.rfft(u * u / 2))
        return burgers.NU * np.fft.irfft(wave**2 * np.fft.rfft(u)) - by_x

    times = [0.1, 0.35, 1.0]
    found = solve_ivp(rate, (0, 1), -np.sin(np.pi * x), method="RK45", t_eval=times, rtol=1e-6, atol=1e-8).y
    values = burgers.solution(pairs(x, times))
    assert np.abs(found.reshape(-1, 1) - values).max() < 1e-5
    assert np.abs(values - burgers.solution(pairs(x, times), nodes=100)).max() < 1e-10


def test_allen_cahn_reference_is_that_of_finite_differences():
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
    at = pairs(np.linspace(-1, 1, 501)[1:-1], times)
    extrapolated = (4 * found[1000][1::2] - found[500]) / 3
    assert np.abs(extrapolated.reshape(-1, 1) - allen_cahn.solution(at)).max() < 2e-5


def test_allen_cahn_reference_does_not_depend_on_modes_and_steps():
    at = PROBLEMS["allen_cahn"].grid(2500)
    values = allen_cahn.solution(at)
    assert np.abs(values - allen_cahn.solution(at, modes=1023)).max() < 1e-6
    assert np.abs(values - allen_cahn.solution(at, steps=200)).max() < 1e-6


def test_korteweg_de_vries_reference_is_that_of_another_integrator_on_a_coarser_grid():
    """Runge and Kutta's, for the series without its dispersion."""
    count, times = 256, [0.2, 0.35, 0.5]
    x = 2 * np.arange(count) / count - 1
    wave = 1j * np.pi * np.arange(count // 2 + 1)

    def turned(t):
        return np.exp(korteweg_de_vries.DISPERSION * wave**3 * t)

    def rate(t, v):
        u = np.fft.irfft(v / turned(t))
        return -turned(t) * wave * np.fft.rfft(u * u / 2)

    start = np.fft.rfft(np.cos(np.pi * x))
    found = solve_ivp(rate, (0, 0.5), start, t_eval=times, method="RK45", rtol=1e-6, atol=1e-6).y
    u = np.stack([np.fft.irfft(v / turned(t)) for v, t in zip(found.T, times, strict=True)], 1)
    assert np.abs(u.reshape(-1, 1) - korteweg_de_vries.solution(pairs(x, times))).max() < 1e-3


def test_korteweg_de_vries_reference_does_not_depend_on_places_and_steps():
    at = PROBLEMS["kdv"].grid(2500)
    values = korteweg_de_vries.solution(at)
    assert np.abs(values - korteweg_de_vries.solution(at, count=256)).max() < 1e-4
    assert np.abs(values - korteweg_de_vries.solution(at, steps=1000)).max() < 1e-4


def test_the_long_heat_is_that_of_finite_differences():
    x = np.linspace(0, 1, 161)[1:-1]

    def rate(t, u):
        padded = np.concatenate([[0.0], u, [0.0]])
        source = (1 + 2 * np.sin(np.pi * t / 4)) * np.sin(4 * np.pi * x)
        return 0.01 * np.diff(padded, 2) * 160**2 + source

    banded = {"lband": 1, "uband": 1, "rtol": 1e-6, "atol": 1e-8}
    times = [1.0, 7.0, 20.0]
    found = solve_ivp(rate, (0, 20), np.sin(np.pi * x), method="LSODA", t_eval=times, **banded).y
    assert np.abs(found.reshape(-1, 1) - heat_long.solution(pairs(x, times))).max() < 1e-3


@pytest.mark.parametrize(("module", "coarse", "fine"), [(helmholtz, 16, 28), (poisson_scales, 40, 70)])
def test_collocation_of_the_source_gives_the_reference(module, coarse, fine):
    errors = [np.abs(found - module.solution(at)).max() for at, found in map(module.solved, (coarse, fine))]
    assert errors[1] < 1e-8
    assert errors[1] < 1e-3 * errors[0]


def test_the_flow_of_the_lid_is_that_of_polynomials():
    """Chebyshev collocation of the stream function by least squares; corners, where it is not smooth, cost digits."""
    count, nu = 18, 1 / navier_stokes.REYNOLDS
    d, one = 2 * chebyshev.derivative(count), np.eye(count + 1)
    by_x, by_y = np.kron(d, one), np.kron(one, d)
    laplacian = by_x @ by_x + by_y @ by_y
    nodes = (chebyshev.points(count) + 1) / 2
    at = pairs(nodes, nodes)
    on_x, on_y = (np.isin(p, (nodes[0], nodes[-1])) for p in at.T)
    inside, lid = ~(on_x | on_y), np.where(at[:, 1] == 1, 4 * at[:, 0] * (1 - at[:, 0]), 0.0)
    walls = 1e4 * np.concatenate([np.eye(len(at))[~inside], by_x[on_x], by_y[on_y]])
    values = 1e4 * np.concatenate([np.zeros((~inside).sum() + on_x.sum()), lid[on_y]])
    third, s = (laplacian @ by_x, laplacian @ by_y), np.zeros(len(at))
    for _ in range(12):
        u, v, wx, wy = by_y @ s, -by_x @ s, third[0] @ s, third[1] @ s
        equation = (u * wx + v * wy - nu * laplacian @ (laplacian @ s))[inside]
        jacobian = u[:, None] * third[0] + wx[:, None] * by_y + v[:, None] * third[1] - wy[:, None] * by_x
        system = np.concatenate([(jacobian - nu * laplacian @ laplacian)[inside], walls])
        s += np.linalg.lstsq(system, np.concatenate([-equation, values - walls @ s]), rcond=None)[0]
    difference = np.stack([by_y @ s, -by_x @ s], 1) - navier_stokes.solution(at)
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(navier_stokes.solution(at))


def test_the_flow_of_the_lid_has_its_walls_and_does_not_depend_on_the_grid():
    at = PROBLEMS["navier_stokes"].grid(2500)
    values = navier_stokes.solution(at)
    walls, lid = ((at == 0) | (at == 1)).any(1), np.where(at[:, 1] == 1, 4 * at[:, 0] * (1 - at[:, 0]), 0)
    np.testing.assert_allclose(values[walls], np.stack([lid, 0 * lid], 1)[walls], atol=1e-9)
    assert np.linalg.norm(values - navier_stokes.solution(at, count=64)) < 1e-3 * np.linalg.norm(values)


def test_the_square_with_holes_has_its_boundary_values_which_bound_the_error_everywhere():
    """The reference is harmonic, so its largest error is at the boundary."""
    at, values = poisson_holes.boundary(333)
    assert np.abs(poisson_holes.solution(at)[:, 0] - values).max() < 1e-4


def test_the_square_with_holes_is_where_random_walks_end():
    """Walks on spheres: u is the probability to leave by the square."""
    rng = np.random.default_rng(0)
    starts = np.array([[0.0, 0.0], [0.1, 0.25], [0.42, -0.3]])
    at = np.repeat(starts, 4000, 0)
    for _ in range(200):
        to_square = 0.5 - np.abs(at).max(1)
        to_holes = np.linalg.norm(at[:, None] - poisson_holes.CENTRES, axis=2).min(1) - poisson_holes.RADIUS
        angle = rng.uniform(0, 2 * np.pi, len(at))
        jump = np.maximum(np.minimum(to_square, to_holes), 0)[:, None]
        at = at + jump * np.stack([np.cos(angle), np.sin(angle)], 1)
    shares = (0.5 - np.abs(at).max(1) < 0.01).reshape(3, -1).mean(1)
    assert shares == pytest.approx(poisson_holes.solution(starts)[:, 0], abs=0.03)
