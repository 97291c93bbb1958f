"""What a differential equation is to a solver network: a box, the terms of a loss, and a reference."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.floating[Any]]


class Fields:
    """A network's outputs at points, and their derivatives, each computed once.

    `f()` is u, `f("xx")` its second derivative by x, `f("t", of=1)` that of the second output by t, `f.at("x")` the
    coordinate: all [points].

    Args:
        axes: names of the coordinates, one letter each.
        at: points [points, dimensions] that require a gradient, from which `values` were computed.
        values: outputs [points, outputs].
    """

    def __init__(self, axes: str, at: Tensor, values: Tensor) -> None:
        self._axes, self._at, self._values = axes, at, values
        self._rows = slice(None)
        self._gradients: dict[tuple[str, int], Tensor] = {}

    def rows(self, rows: slice) -> "Fields":
        """The same at some of the points."""
        part = Fields(self._axes, self._at, self._values)
        part._gradients, part._rows = self._gradients, rows
        return part

    def at(self, axis: str) -> Tensor:
        return self._at.detach()[self._rows, self._axes.index(axis)]

    def __call__(self, by: str = "", of: int = 0) -> Tensor:
        return self._everywhere("".join(sorted(by)), of)[self._rows]

    def _everywhere(self, by: str, of: int) -> Tensor:
        if not by:
            return self._values[:, of]
        before = by[:-1], of
        if before not in self._gradients:
            summed = self._everywhere(*before).sum()
            (self._gradients[before],) = torch.autograd.grad(summed, self._at, create_graph=True)
        return self._gradients[before][:, self._axes.index(by[-1])]


@dataclass(frozen=True)
class Term:
    """A mean square of the loss.

    Attributes:
        residual: of the fields at its points, [points] or, for several equations, [equations, points]; 0 everywhere
            for the solution.
        weight: of the term.
        place: moves points of the box [points, dimensions] to where the term holds.
    """

    residual: Callable[[Fields], Tensor]
    weight: float = 1.0
    place: Callable[[Tensor], Tensor] = lambda at: at


@dataclass(frozen=True)
class Problem:
    """A differential equation on a box.

    Attributes:
        name: of the problem.
        source: where it was taken from.
        axes: names of the coordinates; time is "t".
        low, high: corners of the box.
        terms: of the loss; the first one is the equation and gets two thirds of the points, the others share the rest.
        solution: the reference [points, measured outputs] in float64, at points [points, dimensions].
        outputs: of a network.
        measured: the outputs that are compared with the reference.
        inside: which points [points, dimensions] belong to the domain, if it is not the whole box.
    """

    name: str
    source: str
    axes: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    terms: tuple[Term, ...]
    solution: Callable[[Array], Array]
    outputs: int = 1
    measured: tuple[int, ...] = (0,)
    inside: Callable[[Array], NDArray[np.bool_]] = lambda at: np.ones(len(at), dtype=bool)

    def unit(self, at: Tensor) -> Tensor:
        """Points of the box as a network reads them: every dimension from -1 to 1."""
        low, high = at.new_tensor(self.low), at.new_tensor(self.high)
        return 2 * (at - low) / (high - low) - 1

    def parts(self, count: int) -> list[slice]:
        """The rows of each term in a batch of about `count` points; all have an even number."""
        others = len(self.terms) - 1
        each = count // (6 * others) * 2
        edges = [0, count - others * each, *(count - k * each for k in range(others - 1, -1, -1))]
        return [slice(a, b) for a, b in pairwise(edges)]

    def placed(self, cube: Tensor) -> Tensor:
        """A batch from points of the unit cube [points, dimensions]: each part is moved to where its term holds."""
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        at = low + (high - low) * cube
        return torch.cat([term.place(at[rows]) for term, rows in zip(self.terms, self.parts(len(at)), strict=True)])

    def loss(self, model: nn.Module, at: Tensor) -> Tensor:
        """The weighted sum of the terms' mean squares at a batch of `placed`; a scalar."""
        at = at.detach().requires_grad_()
        fields = Fields(self.axes, at, model(self.unit(at)))
        found = (
            term.weight * term.residual(fields.rows(rows)).square().mean(-1).sum()
            for term, rows in zip(self.terms, self.parts(len(at)), strict=True)
        )
        return torch.stack(list(found)).sum()

    def grid(self, count: int) -> Array:
        """About `count` points of the domain, evenly spaced over the box with its boundary, [points, dimensions]."""
        side = round(count ** (1 / len(self.low)))
        axes = [np.linspace(a, b, side) for a, b in zip(self.low, self.high, strict=True)]
        at = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], 1)
        return at[self.inside(at)]


def at_value(axis: int, value: float) -> Callable[[Tensor], Tensor]:
    """Move points to a plane, such as the start of time."""

    def place(at: Tensor) -> Tensor:
        return at.index_fill(1, torch.tensor(axis), value)

    return place


def on_faces(bounds: Mapping[int, tuple[float, float]]) -> Callable[[Tensor], Tensor]:
    """Move points to the low and the high end of each of these axes: consecutive ones to each, which are spread evenly.

    Every n-th point of a Sobol sequence is not: it stays in a part of the box.
    """
    faces = [(axis, end) for axis, ends in bounds.items() for end in ends]

    def place(at: Tensor) -> Tensor:
        moved = at.clone()
        for part, (axis, end) in zip(moved.tensor_split(len(faces)), faces, strict=True):
            part[:, axis] = end
        return moved

    return place


def on_both_ends(low: float, high: float) -> Callable[[Tensor], Tensor]:
    """Pairs for periodic conditions: half of the points at the low end of axis 0, and the same at the high end."""

    def place(at: Tensor) -> Tensor:
        half = at[: len(at) // 2]
        return torch.cat([half.index_fill(1, torch.tensor(0), end) for end in (low, high)])

    return place


def differences(*values: Tensor) -> Tensor:
    """Of values at the pairs of `on_both_ends`, [values, pairs]."""
    halves = (value.chunk(2) for value in values)
    return torch.stack([first - second for first, second in halves])
