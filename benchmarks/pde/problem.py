"""What a differential equation is to a solver network, and its derivatives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A differential equation on a box, with boundary and initial values that `bounded` makes exact.

    Attributes:
        name: of the problem.
        low, high: corners of the box, one number a dimension; time is the last dimension, where there is one.
        bounded: makes of points [n, dimensions] and of what a network says there [n] a function that has the boundary
            and initial values, [n].
        residual: of the function [n] and the points [n, dimensions] that it was computed from, [n]; 0 everywhere for
            the solution. Where there is a source, it is divided by the source's size.
        solution: the reference values [n] in float64 at points [n, dimensions].
    """

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    bounded: Callable[[Tensor, Tensor], Tensor]
    residual: Callable[[Tensor, Tensor], Tensor]
    solution: Callable[[Array], Array]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Random points of the box, [count, dimensions]."""
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        return low + (high - low) * torch.rand(count, len(low), generator=generator)

    def unit(self, at: Tensor) -> Tensor:
        """Points of the box as a network reads them: every dimension from -1 to 1."""
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        return 2 * (at - low) / (high - low) - 1

    def grid(self, count: int) -> Array:
        """About `count` points, evenly spaced over the box with its boundary, [points, dimensions]."""
        side = round(count ** (1 / len(self.low)))
        axes = [np.linspace(a, b, side) for a, b in zip(self.low, self.high, strict=True)]
        return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], 1)


def gradient(u: Tensor, x: Tensor) -> Tensor:
    """Derivatives of u [n] by its points x [n, dimensions], which can be differentiated again."""
    (found,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return found
