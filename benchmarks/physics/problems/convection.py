"""Convection: u_t + beta u_x = 0 on [0, 2 pi] x [0, 1], periodic, u(x, 0) = sin x; beta is 10 and 30."""

import math
from functools import partial

import numpy as np
import torch

from physics.problem import Array, Problem, Term, at_value, differences, on_both_ends


def solution(at: Array, beta: float) -> Array:
    return np.sin(at[:, :1] - beta * at[:, 1:])


def convection(beta: float) -> Problem:
    return Problem(
        f"convection_{beta:g}",
        "Krishnapriyan et al., arXiv 2109.01050",
        "xt",
        (0.0, 0.0),
        (2 * math.pi, 1.0),
        (
            Term(lambda f: f("t") + beta * f("x")),
            Term(lambda f: f() - torch.sin(f.at("x")), place=at_value(1, 0.0)),
            Term(lambda f: differences(f()), place=on_both_ends(0.0, 2 * math.pi)),
        ),
        partial(solution, beta=beta),
    )


CONVECTION_10, CONVECTION_30 = convection(10.0), convection(30.0)
