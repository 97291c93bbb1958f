"""Poisson's equation in three dimensions: laplacian u = f on [0, 1]^3, 0 on the boundary.

The solution is sin(pi x) sin(2 pi y) sin(pi z); the residual is divided by the size of f.
"""

import math

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, on_faces

WAVES = 1, 2, 1
FACTOR = -(math.pi**2) * sum(k**2 for k in WAVES)
"""What the source is of the solution."""


def solution(at: Array) -> Array:
    u: Array = np.sin(np.pi * at * WAVES).prod(1, keepdims=True)
    return u


def residual(f: Fields) -> Tensor:
    at = torch.stack([f.at(axis) for axis in "xyz"], 1)
    source = FACTOR * torch.sin(math.pi * at * at.new_tensor(WAVES)).prod(1)
    return (f("xx") + f("yy") + f("zz") - source) / (-FACTOR / 8**0.5)


POISSON_3D = Problem(
    "poisson_3d",
    "after PINNacle's Poisson3d-CG, arXiv 2306.08827, without its holes",
    "xyz",
    (0.0, 0.0, 0.0),
    (1.0, 1.0, 1.0),
    (Term(residual), Term(lambda f: f(), place=on_faces({axis: (0.0, 1.0) for axis in range(3)}))),
    solution,
)
