"""The charts of a diagnosis: paths of SVG, and the facts that the words of the page name."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unstuck.findings import Finding
from unstuck.measure.measurement import Layer, Measurement
from unstuck.report.layers import drawable, evenly, findings_by_layer, update_of

COLUMNS, STEPS = 480, 64
"""Layers, and rows of the heat map over steps, that are drawn at most, at even distances."""
SHADES = 8
"""Shades of a share; of a difference, as many in both directions."""
TALL, BAND = 220, 16
"""Height in pixels of a log axis, and of a band for sizes without a place on it."""

Floats = NDArray[np.float64]
Places = Sequence[tuple[int, Layer]]
Sizes = Sequence[tuple[int, float | None]]
"""Layers, and sizes, with the positions of the layers."""


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

    def cells(self, levels: NDArray[np.int64], at: Sequence[int], colours: str) -> None:
        """Add cells for levels [rows, places], row 0 at the top: level n has the class `colours` + n; 0 is left out."""
        left, right = edges(at, self.width)
        tall = self.height / len(levels)
        for row, line in enumerate(levels):
            ends = np.append((left[1:] != right[:-1]) | (line[1:] != line[:-1]), True)  # of a run of equal levels
            last = np.flatnonzero(ends)
            for i, j in zip([0, *last[:-1] + 1], last, strict=True):
                if line[i]:
                    self.box(f"{colours}{line[i]}", left[i], row * tall, right[j] - left[i], tall)


def charts(
    measurement: Measurement, findings: Sequence[Finding] = (), history: Sequence[Measurement] = ()
) -> list[Chart]:
    """The charts that have data to draw, in the order of their sections on the page."""
    layers, count = list(enumerate(measurement.layers)), len(measurement.layers)
    weighted = [(at, layer) for at, layer in layers if layer.role == "weights"]
    activations = [(at, layer) for at, layer in layers if layer.slopes is not None]
    update = update_of(measurement)
    found: dict[str, list[int]] = {}
    for at, numbers in findings_by_layer(measurement, findings).items():
        found.setdefault(findings[numbers[0]].severity.value, []).append(at)
    drawn = [_bars("profile", count, [(at, layer.gradient) for at, layer in weighted], found)] if weighted else []
    if weighted and len(history) > 1:
        drawn.append(_history(count, weighted, history))
    if activations:
        drawn.append(_slopes(count, activations))
    if updates := [(at, size) for at, layer in layers if (size := update(layer)) is not None]:
        drawn.append(_bars("updates", count, updates, {}))
    return drawn


def _bars(ident: str, layers: int, sizes: Sizes, found: dict[str, list[int]]) -> Chart:
    """Bars on a log axis of at least three decades, so that a level profile looks level.

    Above and below it are bands: with a mark for each finding, and for each size that has no place on the axis.
    """
    lost = [(at, "none" if size is None else f"{max(size, 0.0):g}") for at, size in sizes if not drawable(size)]
    known = [(at, size) for at, size in sizes if drawable(size)]
    ends = [of(known, key=lambda pair: pair[1]) for of in (min, max) if known]
    logs = [math.log10(size) for _at, size in ends] or [-1.0, 0.0]
    margin = max((3 - (logs[1] - logs[0])) / 2, 0.06 * (logs[1] - logs[0]))
    low, high = logs[0] - margin, logs[1] + margin

    names = {name for _at, name in lost}
    over = [*(["found"] if found else []), *(name for name in ("nan", "inf") if name in names)]
    bottom = BAND * len(over) + TALL
    bands = {name: BAND * i for i, name in enumerate(over)}
    bands |= {name: bottom + BAND * i for i, name in enumerate(name for name in ("0", "none") if name in names)}
    height = TALL + BAND * len(bands)

    def y_of(power: float) -> float:
        return bottom - (power - low) / (high - low) * TALL

    step = max(1, int(_round_step(high - low, 6)))
    powers = [p for p in range(math.ceil(low), math.floor(high) + 1) if p % step == 0]
    inside = [p for p in powers if bottom - TALL + 7 < y_of(p) < bottom - 7]
    ticks = [Tick(y_of(p) / height, {0: "1", 1: "10"}.get(p, f"10^{p}"), line=True) for p in inside]
    ticks += [Tick((y + BAND / 2) / height, name) for name, y in bands.items()]
    drawn = sorted({*evenly(known, COLUMNS), *ends})
    marks = Counter(sorted((band for _at, band in lost), key=list(bands).index))
    facts = {"marks": marks, "found": list(found), "ends": ends, "drawn": len(drawn), "all": len(known)}

    chart = Chart(ident, layers, height, ticks, facts)
    for y in bands.values():
        chart.box("band", 0, y, layers, BAND)
    columns = zip(*edges([at for at, _ in drawn], layers), strict=True) if drawn else ()
    for (x, end), (_at, size) in zip(columns, drawn, strict=True):
        gap, top = 0.12 * (end - x) if layers <= COLUMNS else 0.0, y_of(math.log10(size))
        chart.box("bar", x + gap, top, end - x - 2 * gap, bottom - top)
        chart.box("tip", x + gap, top - 1.2, end - x - 2 * gap, 2.4)
    marked = [(f"mark-{band}", band, at) for at, band in lost]
    marked += [(f"found-{severity}", "found", at) for severity, places in found.items() for at in places]
    for name, band, at in marked:
        chart.box(name, at, bands[band] + 3, max(1, layers / COLUMNS), BAND - 6)
    return chart


def _history(count: int, found: Places, measurements: Sequence[Measurement]) -> Chart:
    """The gradient of every layer over the median of its step, in shades of log10."""
    chosen, drawn = evenly(measurements, STEPS), evenly(found, COLUMNS)
    table = np.array([_relative_logs(one, [layer.name for _, layer in drawn]) for one in chosen])
    largest = float(np.abs(table[np.isfinite(table)]).max(initial=0))
    limit = min(max(largest, 0.5), 3.0)
    shades = np.round(np.clip(table / limit, -1, 1) * SHADES) + SHADES + 1
    levels = np.where(np.isnan(table), 0, shades)
    steps = [i if one.step is None else one.step for i, one in enumerate(chosen)]
    ticks = [Tick((i + 0.5) / len(steps), f"{steps[i]:,}") for i in evenly(range(len(steps)), 6)]
    facts = {"steps": steps, "measured": len(measurements), "drawn": len(drawn), "all": len(found)}
    facts |= {"times": 10**limit, "largest": 10 ** min(largest, 300)}
    chart = Chart("history", count, max(60, min(280, 16 * len(steps))), ticks, facts)
    chart.cells(levels.astype(np.int64), [at for at, _ in drawn], "d")
    return chart


def _relative_logs(measurement: Measurement, names: Sequence[str]) -> Floats:
    """log10 of the gradient of these layers over their median; -inf for 0, inf for inf and nan, nan for unknown."""
    found = {layer.name: layer.gradient for layer in measurement.layers}
    sizes = [math.nan if (size := found.get(name)) is None else math.inf if size != size else size for name in names]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(np.array(sizes))
    finite = logs[np.isfinite(logs)]
    return np.asarray(logs - (np.median(finite) if finite.size else 0.0), dtype=np.float64)


def _slopes(count: int, found: Places) -> Chart:
    """The histogram of the mean relative slopes of the neurons of every activation, small shares raised."""
    drawn = evenly(found, COLUMNS)
    counts = np.array([layer.slopes for _, layer in drawn], dtype=np.float64).T[::-1]
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    levels = np.ceil(SHADES * np.sqrt(shares) - 1e-9).astype(np.int64)
    levels[-1] += np.where(levels[-1] > 0, SHADES, 0)  # saturated neurons have another colour
    ticks = [Tick(1 - v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1)]
    chart = Chart("slopes", count, 200, ticks, {"drawn": len(drawn), "all": len(found)})
    chart.cells(levels, [at for at, _ in drawn], "q")
    return chart


def edges(at: Sequence[int], width: int) -> tuple[Floats, Floats]:
    """Left and right ends of columns at these places, ascending: one reaches to the next, if that is near as usual."""
    left, steps = np.array(at, dtype=np.float64), np.diff([*at, width])
    usual = float(np.median(steps[:-1])) if len(at) > 1 else 1.0
    return left, left + np.where(steps < 2 * usual, steps, usual)


def numbered(layers: int) -> list[Tick]:
    """Ticks under layers, at round numbers that count from 1."""
    step = max(1, int(_round_step(layers, 8)))
    return [Tick((i - 0.5) / layers, f"{i:,}") for i in sorted({1, *range(step, layers + 1, step)})]


def _round_step(length: float, most: int) -> float:
    """The smallest distance 1, 2 or 5 times a power of ten that fits at most `most` times into a length."""
    decade = 10.0 ** math.floor(math.log10(length / most))
    return next(m * decade for m in (1, 2, 5, 10) if length / (m * decade) <= most)
