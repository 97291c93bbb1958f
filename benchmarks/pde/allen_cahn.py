"""The Allen-Cahn equation: u_t = 0.001 u_xx + 5 (u - u^3) on [-1, 1] x [0, 1], u(x, 0) = x^2 cos(pi x), -1 at the ends.

Two phases, -1 and 1, with steep walls between them. The reference is a sine series in space and an exponential
integrator in time.
"""

from functools import cache

import numpy as np
import torch
from scipy.fft import dst
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor

from pde.problem import Array, Problem, gradient

DIFFUSION, REACTION = 0.001, 5.0
MODES, STEPS = 511, 400
"""Of the reference; with half as many steps, or twice the modes, it is the same to 1e-6 (see the tests)."""


def solution(at: Array, modes: int = MODES, steps: int = STEPS) -> Array:
    """The reference at any points [n, 2]: the series itself in space, cubic pieces in time."""
    series = CubicHermiteSpline(np.linspace(0, 1, steps + 1), *evolved(modes, steps))
    times, time = np.unique(at[:, 1], return_inverse=True)
    places, place = np.unique(at[:, 0], return_inverse=True)
    sines = np.sin(np.outer(np.arange(1, modes + 1), np.pi / 2 * (places + 1)))
    return (series(times) @ sines)[time, place] - 1


@cache
def evolved(modes: int, steps: int) -> tuple[Array, Array]:
    """Coefficients of u + 1 by sin(k pi (x + 1) / 2), and their rates of change, at even times: [steps + 1, modes].

    The integrator is ETDRK4, in which diffusion and the reaction near -1 are exact.

    Source:
        Cox, Matthews, Exponential time differencing for stiff systems, J. Comput. Phys. 176 (2002); its coefficients by
        contour integrals: Kassam, Trefethen, Fourth-order time-stepping for stiff PDEs, SIAM J. Sci. Comput. 26 (2005).
    """
    k = np.arange(1, modes + 1)
    linear = -DIFFUSION * (np.pi / 2 * k) ** 2 - 2 * REACTION
    x = 2 * k / (modes + 1) - 1

    def to_series(values: Array) -> Array:
        return dst(values, type=1) / (modes + 1)

    def rest(series: Array) -> Array:
        w = dst(series, type=1) / 2
        u = w - 1
        return to_series(REACTION * (u - u**3) + 2 * REACTION * w)

    h = 1 / steps
    z = h * linear[:, None] + np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
    e, half = np.exp(h * linear), np.exp(h * linear / 2)

    def mean(values: Array) -> Array:
        return h * values.mean(1).real

    into_half = mean((np.exp(z / 2) - 1) / z)
    first = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
    middle = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
    last = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)

    now = to_series(x**2 * np.cos(np.pi * x) + 1)
    series, rates = [now], [linear * now + rest(now)]
    for _ in range(steps):
        at_start = rest(now)
        a = half * now + into_half * at_start
        at_a = rest(a)
        at_b = rest(half * now + into_half * at_a)
        at_end = rest(half * a + into_half * (2 * at_b - at_start))
        now = e * now + first * at_start + 2 * middle * (at_a + at_b) + last * at_end
        series.append(now)
        rates.append(linear * now + rest(now))
    return np.array(series), np.array(rates)


def bounded(at: Tensor, network: Tensor) -> Tensor:
    x, t = at.unbind(1)
    return x.square() * torch.cos(np.pi * x) + t * (1 - x.square()) * network


def residual(u: Tensor, at: Tensor) -> Tensor:
    by_x, by_t = gradient(u, at).unbind(1)
    return by_t - DIFFUSION * gradient(by_x, at)[:, 0] - REACTION * (u - u**3)


ALLEN_CAHN = Problem("allen_cahn", (-1.0, 0.0), (1.0, 1.0), bounded, residual, solution)
