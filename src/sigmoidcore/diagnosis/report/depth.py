"""What the figures of a diagnosis show: the numbers of a measurement arranged over depth. Nothing is drawn here.

A layer's place is its position in `Measurement.layers`, 0 next to the input. All figures share this axis, so that a
layer is at the same place in each.
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
"""Rows of the common axis that the histograms of the outputs are laid on."""


@dataclass(frozen=True)
class Sizes:
    """Sizes for a log axis.

    Attributes:
        at: places of the layers, ascending; several sizes may have the same.
        values: 0, inf and nan among them.
        missing: places of the layers that should have a size, and have none.
    """

    at: Ints
    values: Floats
    missing: Ints

    @property
    def drawable(self) -> NDArray[np.bool_]:
        """Those that a log axis has a place for."""
        return np.isfinite(self.values) & (self.values > 0)

    @property
    def marked(self) -> dict[str, Ints]:
        """Places of those that it has none for, by what they are."""
        marks = {
            "nan": self.at[np.isnan(self.values)],
            "inf": self.at[np.isinf(self.values)],
            "0": self.at[self.values == 0],
            "none": self.missing,
        }
        return {name: places for name, places in marks.items() if places.size}

    @property
    def decades(self) -> tuple[float, float]:
        """Ends of the log axis, as powers of ten: three decades at least, so that a level profile looks level."""
        logs = np.log10(self.values[self.drawable])
        least, most = (float(logs.min()), float(logs.max())) if logs.size else (-1.0, 0.0)
        margin = max((3 - (most - least)) / 2, 0.06 * (most - least))
        return least - margin, most + margin


@dataclass(frozen=True)
class Cells:
    """Shares by depth: a histogram for each of some layers.

    Attributes:
        at: places of the layers, ascending.
        shares: [rows, layers]; each layer's sum is 1, or 0 where nothing was counted. Row 0 is the lowest.
        axis: what the rows stand for.
    """

    at: Ints
    shares: Floats
    axis: "Axis"


@dataclass(frozen=True)
class Axis:
    """From values to heights in [0, 1]: linear, or beyond `knee` on both sides of 0 by their logarithm."""

    low: float
    high: float
    knee: float | None = None

    def bend(self, values: Floats) -> Floats:
        """Values as they are spaced on the axis."""
        if self.knee is None:
            return values
        scaled = np.abs(values) / self.knee
        return np.sign(values) * np.where(scaled <= 1, scaled, 1 + np.log10(np.maximum(scaled, 1)))

    def height(self, values: Iterable[float]) -> Floats:
        """Where on the axis: 0 is its lower end, 1 its upper one."""
        low, high, bent = (self.bend(np.asarray(v, dtype=np.float64)) for v in (self.low, self.high, list(values)))
        return np.asarray((bent - low) / (high - low), dtype=np.float64)


@dataclass(frozen=True)
class History:
    """Gradient sizes by step and layer, relative to each step's median.

    Attributes:
        steps: ascending.
        at: places of the layers.
        logs: [steps, layers] log10 of size over median; nan where there is none.
        vanished: [steps, layers] the gradient is 0.
        nonfinite: [steps, layers] it is not finite.
    """

    steps: Ints
    at: Ints
    logs: Floats
    vanished: NDArray[np.bool_]
    nonfinite: NDArray[np.bool_]


def gradients(measurement: Measurement) -> Sizes:
    """The gradient size of every layer with weights."""
    weighted = [(at, layer.gradient) for at, layer in enumerate(measurement.layers) if layer.role == "weights"]
    return _sizes(weighted)


def updates(measurement: Measurement) -> Sizes:
    """The update-to-weight ratio of every weight, at the first layer that uses it."""
    ratios = {w.name: w.update for w in measurement.weights if w.update is not None}
    found: list[tuple[int, float | None]] = []
    for at, layer in enumerate(measurement.layers):
        found += [(at, ratios.pop(name)) for name in layer.weights if name in ratios]
    return _sizes(found)


def _sizes(found: Sequence[tuple[int, float | None]]) -> Sizes:
    known = [(at, value) for at, value in found if value is not None]
    return Sizes(
        np.array([at for at, _ in known], dtype=np.int64),
        np.array([value for _, value in known], dtype=np.float64),
        np.array([at for at, value in found if value is None], dtype=np.int64),
    )


def slopes(measurement: Measurement) -> Cells:
    """How the neurons' mean relative slopes are distributed in every activation."""
    found = [(at, layer.slopes) for at, layer in enumerate(measurement.layers) if layer.slopes is not None]
    counts = np.array([counted for _, counted in found], dtype=np.float64).reshape(len(found), BINS).T
    return Cells(_places(found), counts / np.maximum(counts.sum(axis=0), 1), Axis(0.0, 1.0))


def outputs(measurement: Measurement, weighted: bool) -> Cells:
    """How the outputs are distributed, of every layer with weights or of every one without, on one axis for all."""
    found = [
        (at, layer)
        for at, layer in enumerate(measurement.layers)
        if (layer.role == "weights") is weighted and layer.histogram is not None and any(layer.histogram)
    ]
    axis = _axis([layer for _, layer in found])
    shares = np.array([_laid(layer, axis) for _, layer in found], dtype=np.float64).reshape(len(found), ROWS).T
    return Cells(_places(found), shares, axis)


def _places(found: Sequence[tuple[int, object]]) -> Ints:
    return np.array([at for at, _ in found], dtype=np.int64)


def _axis(layers: Sequence[Layer]) -> Axis:
    """Linear; logarithmic beyond what is usual, where some layers reach more than 20 times as far as most."""
    low = min((layer.low for layer in layers if layer.low is not None), default=0.0)
    high = max((layer.high for layer in layers if layer.high is not None), default=1.0)
    if not low < high:
        low, high = low - max(1.0, abs(low)) / 2, high + max(1.0, abs(high)) / 2
    reach = [max(abs(layer.low or 0.0), abs(layer.high or 0.0)) for layer in layers]
    usual = float(np.median(reach)) if reach else 0.0
    return Axis(low, high, usual if 0 < 20 * usual < max(reach) else None)


def _laid(layer: Layer, axis: Axis) -> Floats:
    """The shares of a layer's histogram in the rows of an axis: within its bins, values are taken as even."""
    counts = np.array(layer.histogram, dtype=np.float64)
    low, high = layer.low or 0.0, layer.high or 0.0
    edges = axis.height(low + (high - low) * np.linspace(0, 1, len(counts) + 1)) * ROWS
    if edges[-1] - edges[0] < 1e-9:  # all values are the same
        shares = np.zeros(ROWS)
        shares[min(int(edges[0]), ROWS - 1)] = 1.0
        return shares
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    return np.diff(np.interp(np.arange(ROWS + 1), edges, below, left=0.0, right=1.0))


def history(measurements: Sequence[Measurement], most: int) -> History:
    """The profiles of at most `most` steps, evenly thinned, over the layers of the last one."""
    kept = (
        measurements if len(measurements) <= most else [measurements[i] for i in spread_evenly(len(measurements), most)]
    )
    place = {layer.name: at for at, layer in enumerate(measurements[-1].layers) if layer.role == "weights"}
    column = {name: i for i, name in enumerate(place)}
    sizes = np.full((len(kept), len(place)), np.nan)
    missing = np.ones(sizes.shape, dtype=np.bool_)
    for row, measurement in enumerate(kept):
        for layer in measurement.layers:
            if layer.gradient is not None and layer.name in column:
                sizes[row, column[layer.name]] = layer.gradient
                missing[row, column[layer.name]] = False
    finite = np.isfinite(sizes) & (sizes > 0)
    logs = np.log10(np.where(finite, sizes, 1.0))
    logs[~finite] = np.nan
    for line in logs:
        if not np.isnan(line).all():
            line -= np.nanmedian(line)
    steps = np.array([i if m.step is None else m.step for i, m in enumerate(kept)], dtype=np.int64)
    return History(
        steps, np.array(list(place.values()), dtype=np.int64), logs, sizes == 0, ~np.isfinite(sizes) & ~missing
    )


def through_time(measurement: Measurement) -> list[tuple[int, Layer]]:
    """Recurrent layers with their places, those whose gradient changes most through time first."""
    found = [(at, layer) for at, layer in enumerate(measurement.layers) if layer.steps]
    return sorted(found, key=lambda pair: -_change(pair[1].steps or ()))


def _change(steps: Sequence[float]) -> float:
    """Largest over smallest, as a logarithm; inf if one is 0 or not finite."""
    if not all(0 < size < math.inf for size in steps):
        return math.inf
    return math.log(max(steps)) - math.log(min(steps))


def spread_evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers 0 to count - 1, evenly, both ends among them."""
    most = min(count, most)
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)})


def value_ticks(axis: Axis) -> list[tuple[float, str]]:
    """Heights and labels on an axis of values: round numbers, 0 among them if it lies on it."""
    if axis.knee is None:
        step = _round_step(axis.high - axis.low)
        values = [k * step for k in range(math.ceil(axis.low / step), math.floor(axis.high / step) + 1)]
    else:
        last = math.floor(math.log10(max(axis.high, -axis.low)))
        powers = [10.0**p for p in range(math.ceil(math.log10(axis.knee)), last + 1)]
        powers = powers[:: max(1, math.ceil(len(powers) / 3))]
        values = [v for v in (*(-p for p in reversed(powers)), 0.0, *powers) if axis.low <= v <= axis.high]
    return [(height, f"{value:.6g}") for height, value in zip(axis.height(values).tolist(), values, strict=True)]


def _round_step(length: float) -> float:
    """A round distance for which about five ticks fit into a length."""
    decade = 10.0 ** math.floor(math.log10(length / 5))
    return next(m * decade for m in (1, 2, 5, 10) if length / (m * decade) <= 5)
