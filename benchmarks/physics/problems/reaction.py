"""Reaction: u_t = 5 u (1 - u) on [0, 2 pi] x [0, 1], periodic, from a bell around pi."""

import math

import numpy as np
import torch

from physics.problem import Array, Problem, Term, at_value, differences, on_both_ends

RHO, WIDTH = 5.0, math.pi / 4


def solution(at: Array) -> Array:
    """Logistic growth at every place."""
    x, t = at[:, :1], at[:, 1:]
    grown = np.exp(-((x - np.pi) ** 2) / (2 * WIDTH**2) + RHO * t)
    u: Array = grown / (grown + 1 - np.exp(-((x - np.pi) ** 2) / (2 * WIDTH**2)))
    return u


REACTION = Problem(
    "reaction",
    "Krishnapriyan et al., arXiv 2109.01050",
    "xt",
    (0.0, 0.0),
    (2 * math.pi, 1.0),
    (
        Term(lambda f: f("t") - RHO * f() * (1 - f())),
        Term(lambda f: f() - torch.exp(-((f.at("x") - math.pi) ** 2) / (2 * WIDTH**2)), place=at_value(1, 0.0)),
        Term(lambda f: differences(f()), place=on_both_ends(0.0, 2 * math.pi)),
    ),
    solution,
)
