"""The equation of Korteweg and de Vries: u_t + u u_x + 0.022^2 u_xxx = 0 on [-1, 1] x [0, 1/2], periodic.

It starts at cos(pi x), a wave that steepens and begins to break up into solitons. The paper's time is twice as long,
which no network here learnt in a thousand steps. The reference is a Fourier series and an exponential integrator.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from physics.problem import Array, Problem, Term, at_value, differences, on_both_ends
from physics.references import exponential

DISPERSION, END = 0.022**2, 0.5
COUNT, STEPS = 512, 2000
"""Places and steps of the reference; with half as many it is the same to 1e-4 (see the tests)."""


def solution(at: Array, count: int = COUNT, steps: int = STEPS) -> Array:
    """The reference at any points [n, 2]: the series itself in space, cubic pieces in time."""
    times, time = np.unique(at[:, 1], return_inverse=True)
    places, place = np.unique(at[:, 0], return_inverse=True)
    waves = np.exp(1j * np.pi * np.outer(np.arange(count // 2 + 1), places + 1)) * 2
    waves[0] /= 2
    u: Array = (series(count, steps)(times) @ waves).real[time, place][:, None]
    return u


@cache
def series(count: int, steps: int) -> Callable[[Array], NDArray[np.complex128]]:
    """Coefficients of u by exp(i k pi (x + 1)) at times; dispersion is exact, a third of the waves is cut off."""
    x = 2 * np.arange(count) / count - 1
    wave = 1j * np.pi * np.arange(count // 2 + 1)
    kept = np.arange(count // 2 + 1) < count / 3

    def rest(coefficients: NDArray[np.complex128]) -> NDArray[np.complex128]:
        u = np.fft.irfft(coefficients, count) * count
        return -wave * kept * np.fft.rfft(u * u / 2) / count

    start = np.fft.rfft(np.cos(np.pi * x)) / count
    return exponential.evolved(start, -DISPERSION * wave**3, rest, END, steps)


KORTEWEG_DE_VRIES = Problem(
    "kdv",
    "Wang, Li, Chen and Perdikaris (PirateNets), arXiv 2402.00326, half of the time",
    "xt",
    (-1.0, 0.0),
    (1.0, END),
    (
        Term(lambda f: f("t") + f() * f("x") + DISPERSION * f("xxx")),
        Term(lambda f: f() - torch.cos(math.pi * f.at("x")), place=at_value(1, 0.0)),
        Term(lambda f: differences(f(), f("x") / math.pi), place=on_both_ends(-1.0, 1.0)),
    ),
    solution,
)
