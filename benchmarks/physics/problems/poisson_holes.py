"""Laplace's equation on a square with four round holes: u = 1 on the square's boundary, 0 on the circles.

The square is [-1/2, 1/2]^2, the holes have radius 0.1 around (+-0.3, +-0.3). The residual is divided by 100, the size
of second derivatives near the holes: without that, trainings found nothing better than a constant. The reference is a
sum of harmonic functions that fits the boundary: by the maximum principle, its largest misfit there bounds the error.
"""

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, on_faces

CENTRES = np.array([(x, y) for x in (-0.3, 0.3) for y in (-0.3, 0.3)])
RADIUS = 0.1
SIZE = 1 / RADIUS**2
POLES, POWERS = 12, 40
"""Terms around each hole, and of the polynomial."""


def boundary(each: int) -> tuple[Array, Array]:
    """Points on the four sides and the four circles, `each` on every one, and the values of u there."""
    s = (np.arange(each) + 0.5) / each - 0.5
    e = np.full(each, 0.5)
    sides = [np.stack(pair, 1) for pair in ((s, -e), (s, e), (-e, s), (e, s))]
    circle = RADIUS * np.stack([np.cos(2 * np.pi * s), np.sin(2 * np.pi * s)], 1)
    at = np.concatenate([*sides, *(centre + circle for centre in CENTRES)])
    return at, np.repeat([1.0, 0.0], 4 * each)


def harmonics(at: Array) -> Array:
    """Values of all terms, each of size 1 where it is largest, [points, terms]."""
    z = at @ np.array([1, 1j])
    powers = (z[:, None] * math.sqrt(2)) ** np.arange(POWERS + 1)
    columns = [powers.real, powers.imag[:, 1:]]
    for centre in CENTRES @ np.array([1, 1j]):
        poles = (RADIUS / (z[:, None] - centre)) ** np.arange(1, POLES + 1)
        columns += [np.log(np.abs(z - centre))[:, None], poles.real, poles.imag]
    return np.concatenate(columns, 1)


@cache
def coefficients() -> Array:
    at, values = boundary(200)
    return np.linalg.lstsq(harmonics(at), values, rcond=None)[0]


def solution(at: Array) -> Array:
    return (harmonics(at) @ coefficients())[:, None]


def inside(at: Array) -> NDArray[np.bool_]:
    distances = np.linalg.norm(at[:, None] - CENTRES, axis=2)
    outside: NDArray[np.bool_] = distances.min(1) >= RADIUS
    return outside


def laplace(f: Fields) -> Tensor:
    """Points in a hole count as solved."""
    at = torch.stack([f.at("x"), f.at("y")], 1)
    outside = torch.cdist(at, at.new_tensor(CENTRES)).amin(1) >= RADIUS
    return (f("xx") + f("yy")) / SIZE * outside


def on_circles(at: Tensor) -> Tensor:
    """The first coordinate becomes the angle, the second chooses the circle."""
    angle = 2 * math.pi * (at[:, 0] + 0.5)
    centre = at.new_tensor(CENTRES)[(4 * (at[:, 1] + 0.5)).long().clamp(0, 3)]
    return centre + RADIUS * torch.stack([angle.cos(), angle.sin()], 1)


POISSON_HOLES = Problem(
    "poisson_holes",
    "PINNacle's Poisson2d-C, arXiv 2306.08827",
    "xy",
    (-0.5, -0.5),
    (0.5, 0.5),
    (
        Term(laplace),
        Term(lambda f: f() - 1, place=on_faces({0: (-0.5, 0.5), 1: (-0.5, 0.5)})),
        Term(lambda f: f(), place=on_circles),
    ),
    solution,
    inside=inside,
)
