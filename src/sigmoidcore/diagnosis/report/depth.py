"""The numbers of a measurement, arranged over depth for the figures of the page and of matplotlib.

The place of a layer is its position in `Measurement.layers`, 0 next to the input. All figures share this axis. A figure
has columns: two for each layer, one for each layer, or one for several neighbouring layers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigmoidcore.diagnosis.measure.measurement import BINS, Layer, Measurement

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS = 40
"""Rows of the common axis of the histograms of the outputs."""


@dataclass(frozen=True)
class Sizes:
    """Sizes for a log axis.

    Attributes:
        at: places of the layers, ascending; several sizes may have the same.
        values: the sizes, with 0, inf and nan among them.
        missing: places of the layers whose size is unknown.
    """

    at: Ints
    values: Floats
    missing: Ints

    @property
    def drawable(self) -> NDArray[np.bool_]:
        """Which sizes have a place on a log axis."""
        return np.isfinite(self.values) & (self.values > 0)

    @property
    def marked(self) -> dict[str, Ints]:
        """Places of the other sizes, by their kind."""
        marks = {
            "nan": self.at[np.isnan(self.values)],
            "inf": self.at[np.isinf(self.values)],
            "0": self.at[self.values == 0],
            "none": self.missing,
        }
        return {name: places for name, places in marks.items() if places.size}

    @property
    def decades(self) -> tuple[float, float]:
        """Ends of the log axis, as powers of ten: at least three decades, so that a level profile looks level."""
        logs = np.log10(self.values[self.drawable])
        least, most = (float(logs.min()), float(logs.max())) if logs.size else (-1.0, 0.0)
        margin = max((3 - (most - least)) / 2, 0.06 * (most - least))
        return least - margin, most + margin


def gradients(measurement: Measurement) -> Sizes:
    """The gradient size of every layer with weights."""
    return _sizes([(at, x.gradient) for at, x in enumerate(measurement.layers) if x.role == "weights"])


def updates(measurement: Measurement) -> Sizes:
    """The update-to-weight ratio of every weight, at the first layer that uses it."""
    ratios = {w.name: w.update for w in measurement.weights if w.update is not None}
    found: list[tuple[int, float | None]] = []
    for at, layer in enumerate(measurement.layers):
        found += [(at, ratios.pop(name)) for name in layer.weights if name in ratios]
    return _sizes(found)


def _sizes(found: Sequence[tuple[int, float | None]]) -> Sizes:
    known = [(at, value) for at, value in found if value is not None]
    missing = [at for at, value in found if value is None]
    return Sizes(_places(known), np.array([value for _, value in known], np.float64), np.array(missing, np.int64))


def _places(found: Sequence[tuple[int, object]]) -> Ints:
    return np.array([at for at, _ in found], dtype=np.int64)


@dataclass(frozen=True)
class Axis:
    """From values to heights in [0, 1]: linear, or logarithmic beyond `knee` on both sides of 0."""

    low: float
    high: float
    knee: float | None = None

    def height(self, values: Iterable[float]) -> Floats:
        """Heights on the axis: 0 is its lower end, 1 its upper end."""
        bent = np.array([self.low, self.high, *values], dtype=np.float64)
        if self.knee is not None:
            scaled = np.abs(bent) / self.knee
            bent = np.sign(bent) * np.where(scaled <= 1, scaled, 1 + np.log10(np.maximum(scaled, 1)))
        return np.asarray((bent[2:] - bent[0]) / (bent[1] - bent[0]), dtype=np.float64)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and labels: round numbers, with 0 if it lies on the axis."""
        if self.knee is None:
            step = round_step(self.high - self.low, 5)
            values = [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        else:
            last = math.floor(math.log10(max(self.high, -self.low)))
            powers = [10.0**p for p in range(math.ceil(math.log10(self.knee)), last + 1)]
            powers = powers[:: max(1, math.ceil(len(powers) / 3))]
            values = [v for v in (*(-p for p in reversed(powers)), 0.0, *powers) if self.low <= v <= self.high]
        return [(height, f"{value:.6g}") for height, value in zip(self.height(values).tolist(), values, strict=True)]


def round_step(length: float, most: int) -> float:
    """The smallest distance 1, 2 or 5 times a power of ten that fits at most `most` times into a length."""
    decade = 10.0 ** math.floor(math.log10(length / most))
    return next(m * decade for m in (1, 2, 5, 10) if length / (m * decade) <= most)


@dataclass(frozen=True)
class Cells:
    """A histogram for each of some layers.

    Attributes:
        at: places of the layers, ascending.
        shares: [rows, layers]; the sum for each layer is 1, or 0 for an empty histogram. Row 0 is the lowest.
        axis: of the rows.
    """

    at: Ints
    shares: Floats
    axis: Axis


def slopes(measurement: Measurement) -> Cells:
    """The histogram of the mean relative slopes of the neurons of every activation."""
    found = [(at, layer.slopes) for at, layer in enumerate(measurement.layers) if layer.slopes is not None]
    counts = np.array([counted for _, counted in found], dtype=np.float64).reshape(len(found), BINS).T
    return Cells(_places(found), counts / np.maximum(counts.sum(axis=0), 1), Axis(0.0, 1.0))


def outputs(measurement: Measurement, weighted: bool) -> Cells:
    """Histograms of the outputs of all layers with weights, or of all without, on one common axis."""
    found = [
        (at, layer)
        for at, layer in enumerate(measurement.layers)
        if (layer.role == "weights") is weighted and layer.histogram is not None and any(layer.histogram)
    ]
    axis = _output_axis([layer for _, layer in found])
    shares = np.array([_on_axis(layer, axis) for _, layer in found], dtype=np.float64).reshape(len(found), ROWS).T
    return Cells(_places(found), shares, axis)


def _output_axis(layers: Sequence[Layer]) -> Axis:
    """Linear, or logarithmic for large values if some layers reach more than 20 times as far as most."""
    low = min((layer.low for layer in layers if layer.low is not None), default=0.0)
    high = max((layer.high for layer in layers if layer.high is not None), default=1.0)
    if not low < high:
        low, high = low - max(1.0, abs(low)) / 2, high + max(1.0, abs(high)) / 2
    reach = [max(abs(layer.low or 0.0), abs(layer.high or 0.0)) for layer in layers]
    usual = float(np.median(reach)) if reach else 0.0
    return Axis(low, high, usual if 0 < 20 * usual < max(reach) else None)


def _on_axis(layer: Layer, axis: Axis) -> Floats:
    """The shares of a layer's histogram in the rows of an axis; values are taken as even within a bin."""
    counts = np.array(layer.histogram, dtype=np.float64)
    low, high = layer.low or 0.0, layer.high or 0.0
    edges = axis.height(low + (high - low) * np.linspace(0, 1, len(counts) + 1)) * ROWS
    if edges[-1] - edges[0] < 1e-9:  # all values are the same
        shares = np.zeros(ROWS)
        shares[min(int(edges[0]), ROWS - 1)] = 1.0
        return shares
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    return np.diff(np.interp(np.arange(ROWS + 1), edges, below, left=0.0, right=1.0))


@dataclass(frozen=True)
class History:
    """Gradient sizes by step and layer, relative to the median of each step.

    Attributes:
        steps: ascending.
        at: places of the layers.
        logs: [steps, layers] log10 of size over median; -inf for 0, inf for inf and nan, nan for unknown.
    """

    steps: Ints
    at: Ints
    logs: Floats


def history(measurements: Sequence[Measurement], most: int) -> History:
    """The profiles of at most `most` steps, evenly thinned, over the layers of the last one."""
    thinned = [measurements[i] for i in spread_evenly(len(measurements), most)]
    places = {x.name: at for at, x in enumerate(measurements[-1].layers) if x.role == "weights"}
    column = {name: i for i, name in enumerate(places)}
    logs = np.full((len(thinned), len(places)), np.nan)
    for row, measurement in zip(logs, thinned, strict=True):
        for layer in measurement.layers:
            if layer.gradient is not None and layer.name in column:
                size = layer.gradient
                drawable = 0 < size < math.inf
                row[column[layer.name]] = math.log10(size) if drawable else -math.inf if size == 0 else math.inf
        if np.isfinite(row).any():
            row -= np.median(row[np.isfinite(row)])
    steps = np.array([i if m.step is None else m.step for i, m in enumerate(thinned)], dtype=np.int64)
    return History(steps, np.array(list(places.values()), dtype=np.int64), logs)


def through_time(measurement: Measurement) -> list[tuple[int, Layer]]:
    """Recurrent layers with their places, those whose gradient changes most through time first."""

    def change(steps: Sequence[float]) -> float:
        drawable = all(0 < size < math.inf for size in steps)
        return math.log(max(steps)) - math.log(min(steps)) if drawable else math.inf

    found = [(at, layer) for at, layer in enumerate(measurement.layers) if layer.steps]
    return sorted(found, key=lambda pair: -change(pair[1].steps or ()))


def spread_evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers 0 to count - 1, evenly spaced, with both ends."""
    most = min(count, most)
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)})


def pitch(at: Ints) -> int:
    """The usual distance of these places in layers."""
    return int(np.median(np.diff(np.unique(at)))) if np.unique(at).size > 1 else 1


def columns(layers: int, most: int) -> int:
    """Columns for these layers: two each, one each, or `most` in all."""
    return next((count for count in (2 * layers, layers) if count <= most), most)


def spans(at: Ints, layers: int, count: int, width: int | None = None) -> list[tuple[int, int]]:
    """For each place, its first column and the one after its last: centred, `width` layers wide, or one pitch."""
    scale, half = count / max(1, layers), (pitch(at) if width is None else width) / 2
    found = []
    for place in at.tolist():
        first = max(0, math.floor((place + 0.5 - half) * scale + 0.5))
        end = min(count, math.floor((place + 0.5 + half) * scale + 0.5))
        inside = min(count - 1, int((place + 0.5) * scale))
        found.append((first, end) if first < end else (inside, inside + 1))
    return found


def members(at: Ints, layers: int, most: int) -> list[list[int]]:
    """For each column, the positions in `at` of the places that it shows."""
    found: list[list[int]] = [[] for _ in range(columns(layers, most))]
    for i, (first, end) in enumerate(spans(at, layers, len(found))):
        for column in range(first, end):
            found[column].append(i)
    return found


def averaged(at: Ints, values: Floats, layers: int, most: int) -> Floats:
    """Values [rows, places] as [rows, columns]: the mean of the layers in a column; nan for an empty column."""
    empty = np.full(len(values), np.nan)
    return np.stack([values[:, m].mean(axis=1) if m else empty for m in members(at, layers, most)], axis=1)


def farthest(at: Ints, values: Floats, layers: int, most: int) -> Floats:
    """Values [rows, places] as [rows, columns]: of the layers in a column, the value that is farthest from 0."""
    padded = np.concatenate([values, np.full((len(values), 1), np.nan)], axis=1)  # for empty columns
    distance = np.where(np.isnan(padded), -1.0, np.abs(padded))
    picked = [np.array([*m, -1])[distance[:, [*m, -1]].argmax(axis=1)] for m in members(at, layers, most)]
    return np.take_along_axis(padded, np.stack(picked, axis=1), axis=1)


def envelope(sizes: Sizes, layers: int, most: int) -> tuple[Floats, Floats]:
    """Smallest and largest drawable size in every column; nan for an empty column."""
    drawn = [sizes.values[m][sizes.drawable[m]] for m in members(sizes.at, layers, most)]
    ends = [(values.min(), values.max()) if values.size else (np.nan, np.nan) for values in drawn]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return low, high
