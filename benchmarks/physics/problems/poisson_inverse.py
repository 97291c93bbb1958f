"""An inverse problem: which a(x, y) makes -div(a grad u) = f on [0, 1]^2, from noisy values of u?

u = sin(pi x) sin(pi y) is measured with a deviation of 0.1, and a is known on the boundary; the network says u and a,
and a is compared.
"""

import math

import numpy as np
import torch
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, on_faces

NOISE = 0.1


def coefficient(x: Tensor, y: Tensor) -> Tensor:
    return 1 / (1 + x**2 + y**2 + (x - 1) ** 2 + (y - 1) ** 2)


def solution(at: Array) -> Array:
    x, y = at.T
    return np.stack([np.sin(np.pi * x) * np.sin(np.pi * y), coefficient(x, y)], 1)


def residual(f: Fields) -> Tensor:
    """-a laplacian u - grad a . grad u - f, where f follows from the u and the a that are looked for."""
    x, y = f.at("x"), f.at("y")
    a = coefficient(x, y)
    wave = torch.sin(math.pi * x) * torch.sin(math.pi * y)
    by_x = math.pi * torch.cos(math.pi * x) * torch.sin(math.pi * y)
    by_y = math.pi * torch.sin(math.pi * x) * torch.cos(math.pi * y)
    # grad a = -a^2 (4 x - 2, 4 y - 2)
    source = 2 * math.pi**2 * a * wave + a**2 * ((4 * x - 2) * by_x + (4 * y - 2) * by_y)
    divergence = f(of=1) * (f("xx") + f("yy")) + f("x", 1) * f("x") + f("y", 1) * f("y")
    return -divergence - source


def measured(f: Fields) -> Tensor:
    """Noise that belongs to the place, as if every place had been measured once."""
    x, y = f.at("x"), f.at("y")
    phase = torch.sin(x * 12.9898 + y * 78.233) * 43758.5453
    noise = NOISE * math.sqrt(12) * (phase - phase.floor() - 0.5)
    return f() - torch.sin(math.pi * x) * torch.sin(math.pi * y) - noise


POISSON_INVERSE = Problem(
    "poisson_inverse",
    "PINNacle's PInv, arXiv 2306.08827",
    "xy",
    (0.0, 0.0),
    (1.0, 1.0),
    (
        Term(residual),
        Term(measured),
        Term(lambda f: f(of=1) - coefficient(f.at("x"), f.at("y")), place=on_faces({0: (0.0, 1.0), 1: (0.0, 1.0)})),
    ),
    lambda at: solution(at)[:, 1:],
    outputs=2,
    measured=(1,),
)
