"""The layers of a measurement: as a table, the most telling of many, and as lines of text with bars on a log axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

import numpy as np

from unstuck.findings import Finding
from unstuck.language import _
from unstuck.language.terminal import printable, shortened, text_width, wrapped
from unstuck.measure.measurement import Layer, Measurement
from unstuck.wording import percent, short_number

SHORT, ROWS = 20, 16
"""A network of at most `SHORT` layers is shown in full, of a longer one `ROWS`."""
ALIKE = 0.1
"""The text shows the spread across samples if it is below this in a layer."""
BARS = (10, 24)
"""Fewest and most columns of bars."""
NAME_WIDTH, KIND_WIDTH, RULE_WIDTH = 20, 14, 6

_T = TypeVar("_T")


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

    def cell(self, layer: Layer, digits: int = 3) -> str:
        """The value of a layer; an empty text if it is unknown."""
        value = self.value(layer)
        if value is None and self.key == "gradient" and layer.role == "weights":
            return _("none")
        return percent(value) if self.head.endswith("%") else short_number(value, digits)


def number_columns(measurement: Measurement) -> list[Column]:
    """The columns of numbers; a narrow terminal leaves the last ones out first."""
    gain = _("gradient that leaves the layer on the way back, over the gradient that arrives; 1 is level")
    rms = _("root mean square of the output")
    bad = _("numbers that are inf or nan, in the output and its gradient")
    dead = _("share of the neurons with derivative 0 for all samples")
    slope = _("mean relative slope of the neurons, from 0 to 1")
    across = _("difference of the output across samples, from 0 to 1")
    return [
        Column("gradient", _("gradient"), _("size of the gradient of the layer's output"), lambda x: x.gradient),
        Column("gain", _("gain"), gain, lambda x: x.gain),
        Column("rms", _("RMS"), rms, lambda x: None if math.isnan(x.rms) else x.rms, lambda value: False),
        Column("nonfinite", _("not finite"), bad, lambda x: (x.nonfinite + x.nonfinite_gradient) or None),
        Column("dead", _("dead %"), dead, lambda x: x.dead, bool),
        Column("saturated", _("satur. %"), _("share of the neurons that are saturated"), lambda x: x.saturated, bool),
        Column("slope", _("slope"), slope, lambda x: x.relative_slope),
        Column("spread", _("spread"), across, lambda x: x.spread, lambda value: not value >= ALIKE),
        Column("update", _("update"), _("last change of the weight, over its size"), update_of(measurement)),
    ]


def update_of(measurement: Measurement) -> Callable[[Layer], float | None]:
    """The last change of a layer's first weight that changed, over the size of the weight."""
    updates = {weight.name: weight.update for weight in measurement.weights}
    return lambda layer: next((u for u in map(updates.get, layer.weights) if u is not None), None)


def positions(measurement: Measurement) -> dict[str, list[int]]:
    """Positions of the layers by their name, and by the names of the parameters that they use."""
    found: dict[str, list[int]] = {}
    for i, layer in enumerate(measurement.layers):
        for weight in layer.weights:
            found.setdefault(weight, []).append(i)
    return found | {layer.name: [i] for i, layer in enumerate(measurement.layers)}


def findings_by_layer(measurement: Measurement, findings: Sequence[Finding]) -> dict[int, list[int]]:
    """For the position of each layer that findings name, the numbers of these findings."""
    known, found = positions(measurement), dict[int, list[int]]()
    for number, finding in enumerate(findings):
        for place in dict.fromkeys(i for name in finding.layers for i in known.get(name, [])):
            found.setdefault(place, []).append(number)
    return found


def drawable(size: float | None) -> TypeGuard[float]:
    """Whether a size has a place on a log axis."""
    return size is not None and 0 < size < math.inf


def evenly(items: Sequence[_T], most: int) -> list[_T]:
    """Up to `most` of the items, at even distances, with both ends."""
    places = np.linspace(0, len(items) - 1, min(len(items), most)).tolist()
    return [items[i] for i in sorted(set(map(round, places)))]


def most_telling(measurement: Measurement, findings: Sequence[Finding], most: int) -> list[int]:
    """Positions of at most `most` layers, in order: of more, ends, extreme gradients, findings, others evenly."""
    layers, known = measurement.layers, positions(measurement)
    if len(layers) <= most:
        return list(range(len(layers)))
    first = (name for finding in findings for name in finding.layers[: max(1, most // 5)])
    named = dict.fromkeys(i for name in first for i in known.get(name, []))
    sizes = {i: x.gradient for i, x in enumerate(layers) if x.role == "weights" and drawable(x.gradient)}
    extremes = (pick(sizes, key=sizes.__getitem__) for pick in (min, max) if sizes)
    chosen = {0, len(layers) - 1, *list(named)[: most // 2], *extremes}
    others = [i for i in range(len(layers)) if i not in chosen]
    return sorted(chosen.union(evenly(others, most - len(chosen) + 2)[1:-1]))


def layer_rows(measurement: Measurement, findings: Sequence[Finding], width: int) -> list[str]:
    """Lines of at most `width` columns: a heading, then a row for each shown layer in the order in which they ran."""
    layers = measurement.layers
    chosen = most_telling(measurement, findings, SHORT if len(layers) <= SHORT else ROWS)
    shown = [layers[i] for i in chosen]
    counts = {"count": len(shown), "all": f"{len(layers):,}"}
    part = _(", {count} of {all} layers", **counts) if len(shown) < len(layers) else ""
    what = _("layers, input to loss{part}:", part=part)
    if measurement.profile.names:
        what = _("gradient profile, input to loss{part}:", part=part)

    found = findings_by_layer(measurement, findings)
    marks = [_marks([findings[n].rule for n in found.get(i, ())]) for i in chosen]
    gradient, *others = number_columns(measurement)
    names = [_("layer"), *(printable(layer.name) or _("(the model)") for layer in shown)]
    kinds = _padded([_("kind"), *(shortened(printable(layer.kind), KIND_WIDTH) for layer in shown)])
    places = [_padded(["#", *(f"{i + 1:,}" for i in chosen)], right=True)] if part else []
    sizes = _padded([gradient.head, *(gradient.cell(layer) or "-" for layer in shown)], right=True)
    rules = [_padded([_("found"), *marks])] if any(marks) else []
    bars = [_bars(shown, layers, BARS[0])] if any(drawable(layer.gradient) for layer in shown) else []
    optional = [kinds, *bars]  # the last ones are left out first
    for column in others:
        if any(column.notable(value) for value in map(column.value, shown) if value is not None):
            optional.append(_padded([column.head, *(column.cell(layer, 2) or "-" for layer in shown)], right=True))

    def room() -> int:
        return width - 2 - sum(2 + text_width(column[0]) for column in (*places, sizes, *optional, *rules))

    while optional and room() < min(max(map(text_width, names)), NAME_WIDTH):
        optional.pop()
    names = _padded([shortened(name, room()) for name in names])
    if bars and len(optional) > 1:
        optional[1] = _bars(shown, layers, min(BARS[1], BARS[0] + room() - text_width(names[0])))
    table = zip(*places, names, *optional[:1], sizes, *optional[1:], *rules, strict=True)
    return [*wrapped(what, width), *(("  " + "  ".join(row)).rstrip() for row in table)]


def _marks(rules: Sequence[str]) -> str:
    marks = [shortened(printable(rule), RULE_WIDTH) for rule in rules[:2]]
    return " ".join([*marks, *([f"+{len(rules) - 2}"] if len(rules) > 2 else [])])


def _padded(texts: Sequence[str], right: bool = False) -> list[str]:
    """Texts of one width, aligned to the left or to the right."""
    gaps = [" " * (max(map(text_width, texts)) - text_width(text)) for text in texts]
    return [gap + text if right else text + gap for text, gap in zip(texts, gaps, strict=True)]


def _bars(shown: Sequence[Layer], layers: Sequence[Layer], width: int) -> list[str]:
    """A column of bars, on one log axis of at least one decade for all layers."""
    logs = [math.log10(size) for layer in layers if drawable(size := layer.gradient)]
    scale = (8 * width - 1) / (max(logs) - (low := min([max(logs) - 1, *logs])))
    sizes = [layer.gradient for layer in shown]
    eighths = [round(1 + scale * (math.log10(size) - low)) if drawable(size) else 0 for size in sizes]
    return [" " * width, *(f"{'█' * (n // 8)}{' ▏▎▍▌▋▊▉'[n % 8]}".rstrip().ljust(width) for n in eighths)]
