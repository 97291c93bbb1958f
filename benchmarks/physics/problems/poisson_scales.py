"""Poisson's equation in one dimension, with two scales: u'' = f on [0, 1], 0 at the ends.

The solution is sin(2 pi x) + 0.1 sin(20 pi x); the residual is divided by the size of f. The paper has 50 pi in place
of 20 pi, which nothing that was tried here began to learn in a thousand steps: all fail alike.
"""

import math

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, on_faces
from physics.references import chebyshev

WAVES = (1.0, 2 * math.pi), (0.1, 20 * math.pi)
"""Sizes and wave numbers."""
SIZE = math.sqrt(sum((a * k**2) ** 2 for a, k in WAVES) / 2)
"""Root mean square of f."""


def solution(at: Array) -> Array:
    u: Array = np.sum([a * np.sin(k * at) for a, k in WAVES], 0)
    return u


def solved(count: int) -> tuple[Array, Array]:
    """By Chebyshev collocation: points [count - 1, 1] inside, and values there; it knows f only."""
    by_x = 2 * chebyshev.derivative(count)
    at = (chebyshev.points(count)[1:-1, None] + 1) / 2
    source = np.sum([-a * k**2 * np.sin(k * at) for a, k in WAVES], 0)
    return at, np.linalg.solve((by_x @ by_x)[1:-1, 1:-1], source)


def residual(f: Fields) -> Tensor:
    source = sum(-a * k**2 * torch.sin(k * f.at("x")) for a, k in WAVES)
    return (f("xx") - source) / SIZE


POISSON_SCALES = Problem(
    "poisson_scales",
    "Wang, Wang and Perdikaris, arXiv 2012.10047",
    "x",
    (0.0,),
    (1.0,),
    (Term(residual), Term(lambda f: f(), place=on_faces({0: (0.0, 1.0)}))),
    solution,
)
