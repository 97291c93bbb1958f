"""The Allen-Cahn equation: u_t = 0.001 u_xx + 5 (u - u^3) on [-1, 1] x [0, 1], u(x, 0) = x^2 cos(pi x), -1 at the ends.

Two phases, -1 and 1, with steep walls between them. The reference is a sine series in space and an exponential
integrator in time.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.fft import dst

from physics.problem import Array, Problem, Term, at_value, on_faces
from physics.references import exponential

DIFFUSION, REACTION = 0.001, 5.0
MODES, STEPS = 511, 400
"""Of the reference; with half as many steps, or twice the modes, it is the same to 1e-6 (see the tests)."""


def solution(at: Array, modes: int = MODES, steps: int = STEPS) -> Array:
    """The reference at any points [n, 2]: the series itself in space, cubic pieces in time."""
    times, time = np.unique(at[:, 1], return_inverse=True)
    places, place = np.unique(at[:, 0], return_inverse=True)
    sines = np.sin(np.outer(np.arange(1, modes + 1), np.pi / 2 * (places + 1)))
    u: Array = (series(modes, steps)(times) @ sines)[time, place] - 1
    return u[:, None]


@cache
def series(modes: int, steps: int) -> Callable[[Array], Array]:
    """Coefficients of u + 1 by sin(k pi (x + 1) / 2) at times; diffusion and the reaction near -1 are exact."""
    k = np.arange(1, modes + 1)
    x = 2 * k / (modes + 1) - 1

    def to_series(values: Array) -> Array:
        found: Array = dst(values, type=1) / (modes + 1)
        return found

    def rest(coefficients: Array) -> Array:
        w = dst(coefficients, type=1) / 2
        u = w - 1
        return to_series(REACTION * (u - u**3) + 2 * REACTION * w)

    linear = -DIFFUSION * (np.pi / 2 * k) ** 2 - 2 * REACTION
    return exponential.evolved(to_series(x**2 * np.cos(np.pi * x) + 1), linear, rest, 1.0, steps)


ALLEN_CAHN = Problem(
    "allen_cahn",
    "Raissi et al., arXiv 1711.10561, with ten times the diffusion and the values at the ends",
    "xt",
    (-1.0, 0.0),
    (1.0, 1.0),
    (
        Term(lambda f: f("t") - DIFFUSION * f("xx") - REACTION * (f() - f() ** 3)),
        Term(lambda f: f() - f.at("x") ** 2 * torch.cos(math.pi * f.at("x")), place=at_value(1, 0.0)),
        Term(lambda f: f() + 1, place=on_faces({0: (-1.0, 1.0)})),
    ),
    solution,
)
