"""An exponential integrator for equations in time whose linear part is stiff and diagonal: ETDRK4."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline

Modes = NDArray[Any]
"""Coefficients, real or complex."""


def evolved(
    start: Modes, linear: Modes, rest: Callable[[Modes], Modes], end: float, steps: int
) -> Callable[[Modes], Modes]:
    """Solve a' = linear a + rest(a) from time 0 to `end`; returns a at any times [n] as [n, modes].

    Between the steps it is cubic, with the right values and rates of change at both ends.

    Source:
        Cox, Matthews, Exponential time differencing for stiff systems, J. Comput. Phys. 176 (2002); its coefficients by
        contour integrals: Kassam, Trefethen, Fourth-order time-stepping for stiff PDEs, SIAM J. Sci. Comput. 26 (2005).
    """
    h = end / steps
    z = h * linear[:, None] + np.exp(2j * np.pi * (np.arange(1, 65) - 0.5) / 64)
    e, half = np.exp(h * linear), np.exp(h * linear / 2)

    def mean(values: Modes) -> Modes:
        found: Modes = h * values.mean(1)
        return found if np.iscomplexobj(linear) else found.real

    into_half = mean((np.exp(z / 2) - 1) / z)
    first = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
    middle = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
    last = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)

    now = start
    values, rates = [now], [linear * now + rest(now)]
    for _ in range(steps):
        at_start = rest(now)
        a = half * now + into_half * at_start
        at_a = rest(a)
        at_b = rest(half * now + into_half * at_a)
        at_end = rest(half * a + into_half * (2 * at_b - at_start))
        now = e * now + first * at_start + 2 * middle * (at_a + at_b) + last * at_end
        values.append(now)
        rates.append(linear * now + rest(now))
    spline: Callable[[Modes], Modes] = CubicHermiteSpline(
        np.linspace(0, end, steps + 1), np.array(values), np.array(rates)
    )
    return spline
