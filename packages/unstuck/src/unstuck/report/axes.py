"""The axes of charts: layers as columns, sizes on a log axis with bands beside it, and outputs on a common axis."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unstuck.language import _
from unstuck.measure.measurement import Layer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLUMNS = 480
"""Columns of a chart at most."""
ROWS = 40
"""Rows of the common axis of the histograms of the outputs."""
TALL, BAND = 220, 16
"""Height in pixels of a log axis, and of a band for sizes without a place on it."""


@dataclass(frozen=True)
class Tick:
    """A label beside an axis, `at` a share of its length from the left or the top; "10^-3" has an exponent."""

    at: float
    label: str
    line: bool = True


@dataclass(frozen=True)
class Columns:
    """Columns for some of the layers, out of `count` for all: their ends, and the indices of the layers in each."""

    count: int
    left: Floats
    right: Floats
    members: list[Ints]

    def mean(self, values: Floats) -> Floats:
        """Values [rows, layers] as [rows, columns]."""
        return np.stack([values[:, m].mean(axis=1) for m in self.members], axis=1)

    def farthest(self, values: Floats) -> Floats:
        """Values [rows, layers] as [rows, columns]: the value in a column that is farthest from 0; nan if unknown."""
        distance = np.where(np.isnan(values), -1.0, np.abs(values))
        picked = [m[distance[:, m].argmax(axis=1)] for m in self.members]
        return np.take_along_axis(values, np.stack(picked, axis=1), axis=1)


def columns(at: Sequence[int], layers: int, most: int = COLUMNS) -> Columns:
    """Columns for the layers at these positions, ascending, one or more: a column each, or one for several neighbours.

    A column reaches half-way to the next ones, if they are at the usual distance.
    """
    count = min(layers, most)
    used, first = np.unique(np.array(at) * count // layers, return_index=True)
    distance = float(np.median(np.diff(np.unique(at)))) if len(set(at)) > 1 else 1.0
    half = math.ceil(distance * count / layers) / 2
    middles = used + 0.5
    between = (middles[1:] + middles[:-1]) / 2
    left = np.maximum(middles - half, [0.0, *between])
    right = np.minimum(middles + half, [*between, count])
    return Columns(count, left, right, np.split(np.arange(len(at)), first[1:]))


def numbered(layers: int) -> list[Tick]:
    """Ticks under layers, at round numbers that count from 1."""
    step = max(1, int(round_step(layers, 8)))
    numbers = [1, *range(step, layers + 1, step)] if step > 1 else list(range(1, layers + 1))
    return [Tick((number - 0.5) / layers, f"{number:,}") for number in numbers]


def drawable(size: float | None) -> bool:
    """Whether a size has a place on a log axis."""
    return size is not None and 0 < size < math.inf


class LogAxis:
    """A log axis of at least three decades, so that a level profile looks level, with bands above and below it."""

    def __init__(self, sizes: Iterable[float], above: Sequence[str], below: Sequence[str]) -> None:
        logs = [math.log10(size) for size in sizes if drawable(size)] or [-1.0, 0.0]
        margin = max((3 - (max(logs) - min(logs))) / 2, 0.06 * (max(logs) - min(logs)))
        self._low, self._high = min(logs) - margin, max(logs) + margin
        self.bottom = BAND * len(above) + TALL
        self.height = self.bottom + BAND * len(below)
        self.bands = {name: BAND * i for i, name in enumerate(above)}
        self.bands |= {name: self.bottom + BAND * i for i, name in enumerate(below)}

    def y(self, size: float) -> float:
        """Height of a size, from the top."""
        return self._y(math.log10(size))

    def _y(self, power: float) -> float:
        return self.bottom - (power - self._low) / (self._high - self._low) * TALL

    def ticks(self) -> list[Tick]:
        """Powers of ten, and the names of the bands."""
        step = max(1, int(round_step(self._high - self._low, 6)))
        powers = [p for p in range(math.ceil(self._low), math.floor(self._high) + 1) if p % step == 0]
        inside = [p for p in powers if self.bottom - TALL + 7 < self._y(p) < self.bottom - 7]
        ticks = [Tick(self._y(p) / self.height, {0: "1", 1: "10"}.get(p, f"10^{p}")) for p in inside]
        words = {"found": _("found"), "none": _("none")}
        bands = [((y + BAND / 2) / self.height, words.get(name, name)) for name, y in self.bands.items()]
        return ticks + [Tick(at, label, line=False) for at, label in bands]


class OutputAxis:
    """The common axis of the outputs of layers: linear, or logarithmic from `knee` on if a few reach very far."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        low, high = min(layer.low or 0.0 for layer in layers), max(layer.high or 0.0 for layer in layers)
        margin = 0.0 if low < high else max(1.0, abs(low)) / 2
        self.low, self.high = low - margin, high + margin
        reach = [max(abs(layer.low or 0.0), abs(layer.high or 0.0)) for layer in layers]
        usual = float(np.median(reach))
        self.knee = usual if 0 < 20 * usual < max(reach) else None

    def heights(self, values: Iterable[float]) -> Floats:
        """Heights of values: 0 is the lower end, 1 the upper end."""
        bent = np.array([self.low, self.high, *values], dtype=np.float64)
        if self.knee is not None:
            bent = np.arcsinh(bent / self.knee)
        return np.asarray((bent[2:] - bent[0]) / (bent[1] - bent[0]), dtype=np.float64)

    def rows(self, layer: Layer) -> Floats:
        """Shares of the layer's outputs in `ROWS` rows from low to high; values are taken as even within a bin."""
        counts = np.array(layer.histogram, dtype=np.float64)
        edges = self.heights(np.linspace(layer.low or 0.0, layer.high or 0.0, len(counts) + 1)) * ROWS
        if edges[-1] - edges[0] < 1e-9:  # all values are the same
            shares = np.zeros(ROWS)
            shares[min(int(edges[0]), ROWS - 1)] = 1.0
            return shares
        below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
        return np.diff(np.interp(np.arange(ROWS + 1), edges, below, left=0.0, right=1.0))

    def ticks(self) -> list[Tick]:
        """Round numbers, with 0 if it lies on the axis."""
        if self.knee is None:
            step = round_step(self.high - self.low, 5)
            values = [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        else:
            first, last = math.ceil(math.log10(self.knee)), math.floor(math.log10(max(self.high, -self.low)))
            powers = [10.0**p for p in range(first, last + 1, max(1, math.ceil((last - first + 1) / 3)))]
            values = [v for v in (*(-p for p in powers), 0.0, *powers) if self.low <= v <= self.high]
        heights = self.heights(values).tolist()
        return [Tick(1 - height, f"{v:.6g}", line=False) for height, v in zip(heights, values, strict=True)]


def round_step(length: float, most: int) -> float:
    """The smallest distance 1, 2 or 5 times a power of ten that fits at most `most` times into a length."""
    decade = 10.0 ** math.floor(math.log10(length / most))
    return next(m * decade for m in (1, 2, 5, 10) if length / (m * decade) <= most)


def spread_evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers 0 to count - 1, evenly spaced, with both ends."""
    most = min(count, most)
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)})
