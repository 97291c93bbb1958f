"""Burgers' equations in two dimensions: (u, v)_t + (u, v) . grad (u, v) = nu laplacian (u, v) on [0, 1]^3, nu = 0.02.

A front that moves along the diagonal. The solution is closed: Fletcher's, by the transform of Cole and Hopf.
"""

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, at_value, on_faces

NU = 0.02


def front(x: Array, y: Array, t: Array) -> Array:
    return 1 / (1 + np.exp(np.clip((4 * y - 4 * x - t) / (32 * NU), -700, 700)))


def solution(at: Array) -> Array:
    """Source: Fletcher, Generating exact solutions of the two-dimensional Burgers' equations, IJNMF 3 (1983)."""
    falling = front(*at.T)
    return np.stack([0.75 - falling / 4, 0.75 + falling / 4], 1)


def residual(f: Fields) -> Tensor:
    u, v = f(of=0), f(of=1)
    return torch.stack([f("t", w) + u * f("x", w) + v * f("y", w) - NU * (f("xx", w) + f("yy", w)) for w in (0, 1)])


def known(f: Fields) -> Tensor:
    falling = torch.sigmoid((4 * f.at("x") - 4 * f.at("y") + f.at("t")) / (32 * NU))
    return torch.stack([f(of=0) - 0.75 + falling / 4, f(of=1) - 0.75 - falling / 4])


BURGERS_2D = Problem(
    "burgers_2d",
    "PINNacle's Burgers2d-C, arXiv 2306.08827, with Fletcher's front in place of a computed solution",
    "xyt",
    (0.0, 0.0, 0.0),
    (1.0, 1.0, 1.0),
    (
        Term(residual),
        Term(known, place=at_value(2, 0.0)),
        Term(known, place=on_faces({0: (0.0, 1.0), 1: (0.0, 1.0)})),
    ),
    solution,
    outputs=2,
    measured=(0, 1),
)
