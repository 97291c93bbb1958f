"""The wave equation: u_tt = 4 u_xx on [0, 1]^2, 0 at the ends, at rest at u = sin(pi x) + sin(4 pi x) / 2.

The residual is divided by 100, which is about its size.
"""

import math

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, at_value, on_faces

SIZE = 100.0


def solution(at: Array) -> Array:
    x, t = np.pi * at.T
    u: Array = (np.sin(x) * np.cos(2 * t) + np.sin(4 * x) * np.cos(8 * t) / 2)[:, None]
    return u


def start(f: Fields) -> Tensor:
    x = math.pi * f.at("x")
    return torch.stack([f() - torch.sin(x) - torch.sin(4 * x) / 2, f("t") / SIZE**0.5])


WAVE = Problem(
    "wave",
    "PINNacle's Wave1d-C, arXiv 2306.08827",
    "xt",
    (0.0, 0.0),
    (1.0, 1.0),
    (
        Term(lambda f: (f("tt") - 4 * f("xx")) / SIZE),
        Term(start, place=at_value(1, 0.0)),
        Term(lambda f: f(), place=on_faces({0: (0.0, 1.0)})),
    ),
    solution,
)
