"""Chebyshev collocation on [-1, 1], for reference solutions."""

import numpy as np

from physics.problem import Array


def points(count: int) -> Array:
    """The extrema of a Chebyshev polynomial, from 1 down to -1: [count + 1]."""
    return np.cos(np.pi * np.arange(count + 1) / count)


def derivative(count: int) -> Array:
    """The matrix that takes the values of a polynomial at `points` to those of its derivative.

    Source:
        Trefethen, Spectral Methods in MATLAB (2000), program cheb.
    """
    x = points(count)
    signs = (-1.0) ** np.arange(count + 1)
    signs[[0, -1]] *= 2
    matrix = np.outer(signs, 1 / signs) / (x[:, None] - x[None, :] + np.eye(count + 1))
    return matrix - np.diag(matrix.sum(1))
