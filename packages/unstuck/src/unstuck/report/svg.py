"""Charts as paths of SVG: boxes, lines and cells, on a log axis for sizes or an axis for values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from unstuck.wording import short_number

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TALL, BAND = 220, 16
"""Height in pixels of a log axis, and of a band for sizes without a place on it."""


class Tick(NamedTuple):
    """A label beside an axis, `at` a share of its length from the left or the top; "10^-3" has an exponent."""

    at: float
    label: str
    line: bool = False


@dataclass
class Chart:
    """Paths by their class, for which page.css has a colour each; x counts from 0 to `width`, y pixels from the top.

    `facts` are what the words of the page, which are in its template, say about the chart.
    """

    ident: str
    width: int
    height: int
    ticks: list[Tick]
    facts: dict[str, Any]
    paths: dict[str, str] = field(default_factory=dict)

    def box(self, name: str, x: float, y: float, width: float, height: float) -> None:
        """Add a box to a path."""
        self.paths[name] = self.paths.get(name, "") + f"M{x:.6g} {y:.4g}h{width:.5g}v{height:.4g}h-{width:.5g}z"

    def cells(self, levels: Ints, at: Sequence[int], colours: str) -> None:
        """Add cells for levels [rows, places], row 0 at the top: level n has the class `colours` + n; 0 is left out."""
        left, right = edges(at, self.width)
        tall = self.height / len(levels)
        for row, line in enumerate(levels):
            ends = np.append((left[1:] != right[:-1]) | (line[1:] != line[:-1]), True)  # of a run of equal levels
            last = np.flatnonzero(ends)
            for i, j in zip([0, *last[:-1] + 1], last, strict=True):
                if line[i]:
                    self.box(f"{colours}{line[i]}", left[i], row * tall, right[j] - left[i], tall)


def edges(at: Sequence[int], width: int) -> tuple[Floats, Floats]:
    """The left and the right ends of columns at these places of `width`, ascending, one or more.

    A column reaches to the next one, if that is at about the usual distance.
    """
    left, steps = np.array(at, dtype=np.float64), np.diff([*at, width])
    usual = float(np.median(steps[:-1])) if len(at) > 1 else 1.0
    return left, left + np.where(steps < 2 * usual, steps, usual)


def numbered(layers: int) -> list[Tick]:
    """Ticks under layers, at round numbers that count from 1."""
    step = max(1, int(_round_step(layers, 8)))
    return [Tick((i - 0.5) / layers, f"{i:,}") for i in sorted({1, *range(step, layers + 1, step)})]


def drawable(size: float | None) -> TypeGuard[float]:
    """Whether a size has a place on a log axis."""
    return size is not None and 0 < size < math.inf


def band_of(size: float | None) -> str:
    """The band for a size that has no place on a log axis."""
    if size is None or math.isnan(size):
        return "none" if size is None else "nan"
    return "inf" if size == math.inf else "0"


class LogAxis:
    """A log axis of at least three decades, so that a level profile looks level, with bands above and below it."""

    def __init__(self, sizes: Iterable[float | None], above: Sequence[str] = ()) -> None:
        sizes = list(sizes)
        names = {band_of(size) for size in sizes if not drawable(size)}
        logs = [math.log10(size) for size in sizes if drawable(size)] or [-1.0, 0.0]
        margin = max((3 - (max(logs) - min(logs))) / 2, 0.06 * (max(logs) - min(logs)))
        self._low, self._high = min(logs) - margin, max(logs) + margin
        over = [*above, *(name for name in ("nan", "inf") if name in names)]
        under = [name for name in ("0", "none") if name in names]
        self.bottom = BAND * len(over) + TALL
        self.bands = {name: BAND * i for i, name in enumerate(over)}
        self.bands |= {name: self.bottom + BAND * i for i, name in enumerate(under)}
        self.height = TALL + BAND * len(self.bands)

    def y(self, size: float | None) -> float:
        """Height of a size, from the top; the middle of its band if it has no place on the axis."""
        return self._y(math.log10(size)) if drawable(size) else self.bands[band_of(size)] + BAND / 2

    def _y(self, power: float) -> float:
        return self.bottom - (power - self._low) / (self._high - self._low) * TALL

    def chart(self, ident: str, width: int, facts: dict[str, Any]) -> Chart:
        """A chart with this axis, and its bands."""
        step = max(1, int(_round_step(self._high - self._low, 6)))
        powers = [p for p in range(math.ceil(self._low), math.floor(self._high) + 1) if p % step == 0]
        inside = [p for p in powers if self.bottom - TALL + 7 < self._y(p) < self.bottom - 7]
        ticks = [Tick(self._y(p) / self.height, {0: "1", 1: "10"}.get(p, f"10^{p}"), line=True) for p in inside]
        ticks += [Tick((y + BAND / 2) / self.height, name) for name, y in self.bands.items()]
        chart = Chart(ident, width, self.height, ticks, facts)
        for y in self.bands.values():
            chart.box("band", 0, y, width, BAND)
        return chart


class ValueAxis:
    """A linear axis from a value of at most 0 to one of at least 0, or a logarithmic one from `knee` on."""

    def __init__(self, low: float, high: float, knee: float | None = None) -> None:
        self.low, self.high, self.knee = low, high, knee

    def heights(self, values: Iterable[float]) -> Floats:
        """Heights of values: 0 is the lower end, 1 the upper end."""
        bent = np.array([self.low, self.high, *values], dtype=np.float64)
        if self.knee is not None:
            bent = np.arcsinh(bent / self.knee)
        return np.asarray((bent[2:] - bent[0]) / (bent[1] - bent[0]), dtype=np.float64)

    def ticks(self) -> list[Tick]:
        """0, and the roundest numbers for which there is room."""
        largest = math.floor(math.log10(max(self.high, -self.low)))
        sizes = [m * 10.0**power for power in range(largest, largest - 9, -1) for m in (5, 2, 1)]
        values = [v for size in (0.0, *sizes) for v in (size, -size) if self.low <= v <= self.high]
        ticks: list[Tick] = []
        for value, height in zip(values, self.heights(values).tolist(), strict=True):
            if all(abs(tick.at - 1 + height) > 0.12 for tick in ticks):
                ticks.append(Tick(1 - height, short_number(value)))
        return ticks


def _round_step(length: float, most: int) -> float:
    """The smallest distance 1, 2 or 5 times a power of ten that fits at most `most` times into a length."""
    decade = 10.0 ** math.floor(math.log10(length / most))
    return next(m * decade for m in (1, 2, 5, 10) if length / (m * decade) <= most)
