"""The heat equation with several scales: u_t = (u_xx / 100^2 + u_yy) / pi^2 on [0, 1]^2 x [0, 1], 0 on the boundary.

It starts at sin(8 pi x) sin(pi y), whose two waves decay at different rates. PINNacle has 20 pi, 500^2 and times up to
5; nothing that was tried here began to learn that in some thousand steps.
"""

import math

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, at_value, on_faces

WAVES = 8, 1
DIFFUSION = 1 / (100 * math.pi) ** 2, 1 / math.pi**2
RATE = math.pi**2 * sum(d * k**2 for d, k in zip(DIFFUSION, WAVES, strict=True))


def solution(at: Array) -> Array:
    x, y, t = at.T
    u: Array = np.sin(WAVES[0] * np.pi * x) * np.sin(WAVES[1] * np.pi * y) * np.exp(-RATE * t)
    return u[:, None]


def start(f: Fields) -> Tensor:
    return f() - torch.sin(WAVES[0] * math.pi * f.at("x")) * torch.sin(WAVES[1] * math.pi * f.at("y"))


HEAT_SCALES = Problem(
    "heat_scales",
    "PINNacle's Heat2d-MS, arXiv 2306.08827, with fewer waves",
    "xyt",
    (0.0, 0.0, 0.0),
    (1.0, 1.0, 1.0),
    (
        Term(lambda f: f("t") - DIFFUSION[0] * f("xx") - DIFFUSION[1] * f("yy")),
        Term(start, place=at_value(2, 0.0)),
        Term(lambda f: f(), place=on_faces({0: (0.0, 1.0), 1: (0.0, 1.0)})),
    ),
    solution,
)
