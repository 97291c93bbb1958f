"""Helmholtz' equation: u_xx + u_yy + u = q on [-1, 1] x [-1, 1], 0 on the boundary.

The source q is that of sin(pi x) sin(4 pi y), as in Wang, Teng, Perdikaris (2021), arXiv 2001.04536.
"""

import numpy as np
import torch
from torch import Tensor

from pde import chebyshev
from pde.problem import Array, Problem, gradient

WAVES = 1, 4
FACTOR = 1 - np.pi**2 * (WAVES[0] ** 2 + WAVES[1] ** 2)
"""What the source is of the solution."""


def solution(at: Array) -> Array:
    return np.sin(WAVES[0] * np.pi * at[:, 0]) * np.sin(WAVES[1] * np.pi * at[:, 1])


def solved(count: int) -> tuple[Array, Array]:
    """By Chebyshev collocation: points [(count - 1)^2, 2] inside, and values there; it knows the source only."""
    x = chebyshev.points(count)[1:-1]
    by_x = chebyshev.derivative(count)
    second = (by_x @ by_x)[1:-1, 1:-1]
    one = np.eye(len(x))
    operator = np.kron(second, one) + np.kron(one, second) + np.eye(len(x) ** 2)
    at = np.stack([axis.ravel() for axis in np.meshgrid(x, x, indexing="ij")], 1)
    return at, np.linalg.solve(operator, FACTOR * solution(at))


def bounded(at: Tensor, network: Tensor) -> Tensor:
    return (1 - at.square()).prod(1) * network


def residual(u: Tensor, at: Tensor) -> Tensor:
    by_x, by_y = gradient(u, at).unbind(1)
    laplacian = gradient(by_x, at)[:, 0] + gradient(by_y, at)[:, 1]
    source = FACTOR * torch.sin(WAVES[0] * np.pi * at[:, 0]) * torch.sin(WAVES[1] * np.pi * at[:, 1])
    return (laplacian + u - source) / (-FACTOR / 2)


HELMHOLTZ = Problem("helmholtz", (-1.0, -1.0), (1.0, 1.0), bounded, residual, solution)
