"""The layers of a measurement as a table: its columns, and the layers to show of many."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unstuck.findings import Finding
from unstuck.language import _
from unstuck.measure.measurement import Layer, Measurement, Weight
from unstuck.wording import percent, short_number

ALIKE = 0.1
"""The text shows the spread across samples if it is below this in a layer."""


@dataclass(frozen=True)
class Column:
    """A column of numbers; its values are shares if the heading ends in "%".

    `notable` says whether a value is reason enough for the text to show the column.
    """

    key: str
    head: str
    meaning: str
    value: Callable[[Layer], float | None]
    notable: Callable[[float], bool] = lambda value: True


def number_columns(measurement: Measurement) -> list[Column]:
    """The columns of numbers, in the order of the page."""
    weights = first_weights(measurement)
    updates = {layer.name: w.update for layer, w in zip(measurement.layers, weights, strict=True) if w is not None}
    gain = _("gradient that leaves the layer on the way back, over the gradient that arrives; 1 is level")
    across = _("difference of the output across samples, from 0 to 1")
    slope = _("mean relative slope of the neurons, from 0 to 1")
    dead = _("share of the neurons with derivative 0 for all samples")
    sharp = _("share of the heads that attend to one place only")
    bad = _("numbers that are inf or nan, in the output and its gradient")
    return [
        Column("gradient", _("gradient"), _("size of the gradient of the layer's output"), lambda x: x.gradient),
        Column("gain", _("gain"), gain, lambda x: x.gain),
        Column("rms", _("RMS"), _("root mean square of the output"), lambda x: None if math.isnan(x.rms) else x.rms),
        Column("spread", _("spread"), across, lambda x: x.spread, lambda value: not value >= ALIKE),
        Column("slope", _("slope"), slope, lambda x: x.relative_slope),
        Column("saturated", _("satur. %"), _("share of the neurons that are saturated"), lambda x: x.saturated, bool),
        Column("dead", _("dead %"), dead, lambda x: x.dead, bool),
        Column("entropy", _("entropy"), _("entropy of attention, over its largest value"), lambda x: x.entropy),
        Column("sharp", _("sharp %"), sharp, lambda x: x.sharp, bool),
        Column("update", _("update"), _("last change of the weight, over its size"), lambda x: updates.get(x.name)),
        Column("nonfinite", _("not finite"), bad, lambda x: (x.nonfinite + x.nonfinite_gradient) or None),
    ]


def positions(measurement: Measurement) -> dict[str, list[int]]:
    """Positions of the layers by their name, and by those of the parameters that they use."""
    found: dict[str, list[int]] = {}
    for i, layer in enumerate(measurement.layers):
        for weight in layer.weights:
            found.setdefault(weight, []).append(i)
    return found | {layer.name: [i] for i, layer in enumerate(measurement.layers)}


def named_layers(measurement: Measurement, findings: Iterable[Finding]) -> list[list[int]]:
    """Positions of the layers that each finding names, worst first."""
    known = positions(measurement)
    return [list(dict.fromkeys(i for name in finding.layers for i in known.get(name, []))) for finding in findings]


def findings_by_layer(measurement: Measurement, findings: Sequence[Finding]) -> dict[int, list[int]]:
    """For the position of each layer that findings name, the numbers of these findings."""
    found: dict[int, list[int]] = {}
    for number, named in enumerate(named_layers(measurement, findings)):
        for place in named:
            found.setdefault(place, []).append(number)
    return found


def cell(column: Column, layer: Layer, digits: int = 3) -> str:
    """The value of a layer in a column; an empty text if it is unknown."""
    value = column.value(layer)
    if value is None and column.key == "gradient" and layer.role == "weights":
        return _("none")
    return percent(value) if column.head.endswith("%") else short_number(value, digits)


def most_telling(measurement: Measurement, findings: Sequence[Finding], most: int) -> list[int]:
    """Positions of at most `most` layers, in order.

    Of more, both ends, the extremes, up to half from the findings, a few of each, and others at even distances.
    """
    layers = measurement.layers
    if len(layers) <= most:
        return list(range(len(layers)))
    named = [found[: max(1, most // 5)] for found in named_layers(measurement, findings)]
    by_rank = [found[rank] for rank in range(max(map(len, named), default=0)) for found in named if rank < len(found)]
    sizes = {i: x.gradient for i, x in enumerate(layers) if x.gradient is not None and 0 < x.gradient < math.inf}
    weighted = [i for i in sizes if layers[i].role == "weights"] or list(sizes)
    slopes = {i: x.relative_slope for i, x in enumerate(layers) if x.relative_slope is not None}
    chosen = {0, len(layers) - 1, *list(dict.fromkeys(by_rank))[: most // 2]}
    if weighted:
        chosen |= {min(weighted, key=sizes.__getitem__), max(weighted, key=sizes.__getitem__)}
    if slopes:
        chosen.add(min(slopes, key=slopes.__getitem__))
    for pool in (weighted, range(len(layers))):
        others = [i for i in pool if i not in chosen]
        count = min(len(others), most - len(chosen))
        chosen |= {others[round(k)] for k in np.linspace(0, len(others) - 1, count + 2)[1:-1]}
    return sorted(chosen)


def first_weights(measurement: Measurement) -> list[Weight | None]:
    """Of each layer, its first weight of at least two dimensions, or else its first; None if it has none."""
    known = {weight.name: weight for weight in measurement.weights}
    found: list[Weight | None] = []
    for layer in measurement.layers:
        weights = [known[name] for name in layer.weights if name in known]
        found.append(next((w for w in weights if len(w.shape) >= 2), weights[0] if weights else None))
    return found
