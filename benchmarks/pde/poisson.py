"""Poisson's equation in one dimension, with two scales: u'' = f on [0, 1], 0 at the ends.

The solution is sin(2 pi x) + 0.1 sin(20 pi x). Wang, Wang, Perdikaris (2021), arXiv 2012.10047, have 50 pi in place
of 20 pi, which nothing that was tried here began to learn in a thousand steps: all fail alike.
"""

import numpy as np
import torch
from torch import Tensor

from pde import chebyshev
from pde.problem import Array, Problem, gradient

WAVES = (1.0, 2 * np.pi), (0.1, 20 * np.pi)
"""Sizes and wave numbers."""
SIZE = float(np.sqrt(sum((a * k**2) ** 2 for a, k in WAVES) / 2))
"""Root mean square of f."""


def solution(at: Array) -> Array:
    return sum(a * np.sin(k * at[:, 0]) for a, k in WAVES)


def source(at: Array) -> Array:
    return sum(-a * k**2 * np.sin(k * at[:, 0]) for a, k in WAVES)


def solved(count: int) -> tuple[Array, Array]:
    """By Chebyshev collocation: points [count - 1, 1] inside, and values there; it knows f only."""
    by_x = 2 * chebyshev.derivative(count)
    at = (chebyshev.points(count)[1:-1, None] + 1) / 2
    return at, np.linalg.solve((by_x @ by_x)[1:-1, 1:-1], source(at))


def bounded(at: Tensor, network: Tensor) -> Tensor:
    return 4 * at[:, 0] * (1 - at[:, 0]) * network


def residual(u: Tensor, at: Tensor) -> Tensor:
    f = sum(-a * k**2 * torch.sin(k * at[:, 0]) for a, k in WAVES)
    return (gradient(gradient(u, at)[:, 0], at)[:, 0] - f) / SIZE


POISSON = Problem("poisson", (0.0,), (1.0,), bounded, residual, solution)
