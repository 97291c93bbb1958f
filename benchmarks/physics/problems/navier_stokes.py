"""The flow in a square whose lid moves: steady Navier-Stokes at a Reynolds number of 100.

The square is [0, 1]^2, the lid's velocity 4 x (1 - x), the other walls rest. A network says u, v and the pressure,
which is 0 in the corner. The reference is a stream function s and a vorticity w, by finite differences and Newton's
method: u = s_y, v = -s_x, laplacian s = -w, u w_x + v w_y = laplacian w / Re.
"""

from functools import cache

import numpy as np
import torch
from scipy import sparse
from scipy.interpolate import RectBivariateSpline
from scipy.sparse.linalg import spsolve
from torch import Tensor

from physics.problem import Array, Fields, Problem, Term, on_faces

REYNOLDS = 100.0
COUNT = 96
"""Intervals of the reference's finer grid; with 64 it is the same to 1e-3 (see the tests)."""


def solution(at: Array, count: int = COUNT) -> Array:
    """Velocities at any points [n, 2]; the error of second order is removed by a grid of half as many intervals."""
    fine, coarse = velocities(count), velocities(count // 2)
    return np.stack(
        [(4 * f(*at.T, grid=False) - c(*at.T, grid=False)) / 3 for f, c in zip(fine, coarse, strict=True)], 1
    )


@cache
def velocities(count: int) -> tuple[RectBivariateSpline, RectBivariateSpline]:
    """u and v by central differences; at walls, the vorticity is Thom's: -2 (s inside) / h^2 - 2 (wall's speed) / h."""
    h = 1 / count
    x = np.linspace(0, 1, count + 1)
    px, py = (axis.ravel() for axis in np.meshgrid(x, x, indexing="ij"))
    one = sparse.eye_array(count + 1)
    first = sparse.diags_array([-1.0, 1.0], offsets=[-1, 1], shape=one.shape) / (2 * h)
    second = sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=one.shape) / h**2
    within = (px > 0) & (px < 1) & (py > 0) & (py < 1)
    inside, wall = sparse.diags_array(within * 1.0), sparse.diags_array(~within * 1.0)
    by_x, by_y = inside @ sparse.kron(first, one), inside @ sparse.kron(one, first)
    laplacian = sparse.kron(second, one) + sparse.kron(one, second)
    lid = np.where(py == 1, 8 * px * (1 - px) / h, 0.0)
    zero = sparse.csr_array(wall.shape)
    # Beyond a wall s is 0 on the wall, so that its laplacian there is s inside over h^2.
    linear = sparse.block_array(
        [[inside @ laplacian + wall, inside], [2 * wall @ laplacian, wall - inside @ laplacian / REYNOLDS]]
    )
    z = np.zeros(2 * len(px))
    for _ in range(20):
        s, w = np.split(z, 2)
        u, v, wx, wy = by_y @ s, -by_x @ s, by_x @ w, by_y @ w
        rest = linear @ z + np.concatenate([np.zeros(len(px)), u * wx + v * wy + lid])
        carried = [
            sparse.diags_array(wx) @ by_y - sparse.diags_array(wy) @ by_x,
            sparse.diags_array(u) @ by_x + sparse.diags_array(v) @ by_y,
        ]
        step = spsolve((linear + sparse.block_array([[zero, zero], carried])).tocsc(), -rest)
        z += step
        if np.abs(step[: len(px)]).max() < 1e-10:
            u = by_y @ z[: len(px)] + np.where(py == 1, 4 * px * (1 - px), 0.0)
            v = -by_x @ z[: len(px)]
            return tuple(RectBivariateSpline(x, x, field.reshape(count + 1, -1)) for field in (u, v))
    raise ArithmeticError(f"Newton's method has not converged with {count} intervals")


def residual(f: Fields) -> Tensor:
    u, v = f(of=0), f(of=1)
    return torch.stack(
        [
            f("x", 0) + f("y", 1),
            *(
                u * f("x", w) + v * f("y", w) + f(pressed, 2) - (f("xx", w) + f("yy", w)) / REYNOLDS
                for w, pressed in enumerate("xy")
            ),
        ]
    )


def walls(f: Fields) -> Tensor:
    lid = torch.where(f.at("y") == 1, 4 * f.at("x") * (1 - f.at("x")), 0.0)
    return torch.stack([f(of=0) - lid, f(of=1)])


NAVIER_STOKES = Problem(
    "navier_stokes",
    "PINNacle's NS2d-C, arXiv 2306.08827",
    "xy",
    (0.0, 0.0),
    (1.0, 1.0),
    (
        Term(residual),
        Term(walls, 10.0, on_faces({0: (0.0, 1.0), 1: (0.0, 1.0)})),
        Term(lambda f: f(of=2), place=lambda at: torch.zeros_like(at)),
    ),
    solution,
    outputs=3,
    measured=(0, 1),
)
