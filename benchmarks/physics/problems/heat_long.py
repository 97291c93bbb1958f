"""The heat equation for a long time: u_t = u_xx / 100 + (1 + 2 sin(pi t / 4)) sin(4 pi x) on [0, 1] x [0, 20].

u is sin(pi x) at the start and 0 at the ends. One wave dies slowly, the other follows its source for two and a half
periods.
"""

import math

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, at_value, on_faces

DIFFUSION, PULSE, END = 0.01, math.pi / 4, 20.0
SLOW, FAST = (DIFFUSION * (k * math.pi) ** 2 for k in (1, 4))
"""Rates of decay of the two waves."""


def solution(at: Array) -> Array:
    """The fast wave's size a obeys a' = -FAST a + 1 + 2 sin(PULSE t), a(0) = 0."""
    x, t = at.T
    forced = (FAST * np.sin(PULSE * t) - PULSE * np.cos(PULSE * t)) / (FAST**2 + PULSE**2)
    at_start = 1 / FAST - 2 * PULSE / (FAST**2 + PULSE**2)
    size = 1 / FAST + 2 * forced - at_start * np.exp(-FAST * t)
    u: Array = np.exp(-SLOW * t) * np.sin(np.pi * x) + size * np.sin(4 * np.pi * x)
    return u[:, None]


def residual(f: Fields) -> Tensor:
    source = (1 + 2 * torch.sin(PULSE * f.at("t"))) * torch.sin(4 * math.pi * f.at("x"))
    return f("t") - DIFFUSION * f("xx") - source


HEAT_LONG = Problem(
    "heat_long",
    "after PINNacle's Heat2d-LT, arXiv 2306.08827: one dimension, a linear source, and a closed solution",
    "xt",
    (0.0, 0.0),
    (1.0, END),
    (
        Term(residual),
        Term(lambda f: f() - torch.sin(math.pi * f.at("x")), place=at_value(1, 0.0)),
        Term(lambda f: f(), place=on_faces({0: (0.0, 1.0)})),
    ),
    solution,
)
