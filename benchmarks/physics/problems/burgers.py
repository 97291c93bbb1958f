"""Burgers' equation: u_t + u u_x = nu u_xx on [-1, 1] x [0, 1], nu = 0.01 / pi, u(x, 0) = -sin(pi x), 0 at the ends.

A wave that becomes nearly a jump at x = 0. It is solved by the transform of Cole and Hopf: an integral.
"""

import math

import numpy as np
import torch
from scipy.special import roots_hermite

from physics.problem import Array, Problem, Term, at_value, on_faces

NU = 0.01 / math.pi
NODES = 200
"""Of the quadrature; with half as many the solution is the same to 1e-10 (see the tests)."""


def solution(at: Array, nodes: int = NODES) -> Array:
    """By Gauss-Hermite quadrature of the integrals of Cole and Hopf.

    Source:
        Basdevant et al., Spectral and finite difference solutions of the Burgers equation, Computers & Fluids 14 (1986)
    """
    x, t = at[:, :1], at[:, 1:]
    node, weight = roots_hermite(nodes)
    shifted = np.pi * (x - np.sqrt(4 * NU * t) * node)
    exponent = -np.cos(shifted) / (2 * np.pi * NU)
    density = weight * np.exp(exponent - exponent.max(1, keepdims=True))
    u: Array = -(density * np.sin(shifted)).sum(1, keepdims=True) / density.sum(1, keepdims=True)
    return u


BURGERS = Problem(
    "burgers",
    "PINNacle's Burgers1d-C, arXiv 2306.08827; Raissi et al., arXiv 1711.10561",
    "xt",
    (-1.0, 0.0),
    (1.0, 1.0),
    (
        Term(lambda f: f("t") + f() * f("x") - NU * f("xx")),
        Term(lambda f: f() + torch.sin(math.pi * f.at("x")), place=at_value(1, 0.0)),
        Term(lambda f: f(), place=on_faces({0: (-1.0, 1.0)})),
    ),
    solution,
)
