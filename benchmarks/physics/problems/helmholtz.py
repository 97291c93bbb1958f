"""Helmholtz' equation: u_xx + u_yy + u = q on [-1, 1] x [-1, 1], 0 on the boundary.

The source q is that of sin(pi x) sin(4 pi y); the residual is divided by its size.
"""

import math

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, on_faces
from physics.references import chebyshev

WAVES = 1, 4
FACTOR = 1 - math.pi**2 * (WAVES[0] ** 2 + WAVES[1] ** 2)
"""What the source is of the solution."""


def solution(at: Array) -> Array:
    u: Array = np.sin(np.pi * at * WAVES).prod(1, keepdims=True)
    return u


def solved(count: int) -> tuple[Array, Array]:
    """By Chebyshev collocation: points [(count - 1)^2, 2] inside, and values there; it knows the source only."""
    x = chebyshev.points(count)[1:-1]
    by_x = chebyshev.derivative(count)
    second = (by_x @ by_x)[1:-1, 1:-1]
    one = np.eye(len(x))
    operator = np.kron(second, one) + np.kron(one, second) + np.eye(len(x) ** 2)
    at = np.stack([axis.ravel() for axis in np.meshgrid(x, x, indexing="ij")], 1)
    return at, np.linalg.solve(operator, FACTOR * solution(at))


def residual(f: Fields) -> Tensor:
    source = FACTOR * torch.sin(WAVES[0] * math.pi * f.at("x")) * torch.sin(WAVES[1] * math.pi * f.at("y"))
    return (f("xx") + f("yy") + f() - source) / (-FACTOR / 2)


HELMHOLTZ = Problem(
    "helmholtz",
    "Wang, Teng and Perdikaris, arXiv 2001.04536; PINNacle's Helmholtz2d",
    "xy",
    (-1.0, -1.0),
    (1.0, 1.0),
    (Term(residual), Term(lambda f: f(), place=on_faces({0: (-1.0, 1.0), 1: (-1.0, 1.0)}))),
    solution,
)
