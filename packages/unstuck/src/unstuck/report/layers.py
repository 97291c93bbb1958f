"""The layers of a measurement: as a table, the most telling of many, and as lines of text with bars on a log axis."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from unstuck.findings import Finding
from unstuck.language import _
from unstuck.language.terminal import printable, shortened, text_width, wrapped
from unstuck.measure.measurement import Layer, Measurement
from unstuck.report.svg import drawable
from unstuck.wording import percent, short_number

SHORT, ROWS = 20, 16
"""A network of at most `SHORT` layers is shown in full, of a longer one `ROWS`."""
ALIKE = 0.1
"""The text shows the spread across samples if it is below this in a layer."""
BARS = (10, 24)
"""Fewest and most columns of bars."""
NAME_WIDTH, KIND_WIDTH, RULE_WIDTH = 20, 14, 6


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
    time = _("gradient at the first time step, over the gradient at the last; 1 is level")
    rms = _("root mean square of the output")
    bad = _("numbers that are inf or nan, in the output and its gradient")
    dead = _("share of the neurons with derivative 0 for all samples")
    slope = _("mean relative slope of the neurons, from 0 to 1")
    sharp = _("share of the heads that attend to one place only")
    across = _("difference of the output across samples, from 0 to 1")
    return [
        Column("gradient", _("gradient"), _("size of the gradient of the layer's output"), lambda x: x.gradient),
        Column("gain", _("gain"), gain, lambda x: x.gain),
        Column("time", _("over time"), time, lambda x: x.steps[0] / (x.steps[-1] or math.nan) if x.steps else None),
        Column("rms", _("RMS"), rms, lambda x: None if math.isnan(x.rms) else x.rms, lambda value: False),
        Column("nonfinite", _("not finite"), bad, lambda x: (x.nonfinite + x.nonfinite_gradient) or None),
        Column("dead", _("dead %"), dead, lambda x: x.dead, bool),
        Column("saturated", _("satur. %"), _("share of the neurons that are saturated"), lambda x: x.saturated, bool),
        Column("slope", _("slope"), slope, lambda x: x.relative_slope),
        Column("sharp", _("sharp %"), sharp, lambda x: x.sharp, bool),
        Column("entropy", _("entropy"), _("entropy of attention, over its largest value"), lambda x: x.entropy),
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


def most_telling(measurement: Measurement, findings: Sequence[Finding], most: int) -> list[int]:
    """Positions of at most `most` layers, in order.

    Of more, both ends, the extremes, up to half from the findings, a few of each, and others at even distances.
    """
    layers, known = measurement.layers, positions(measurement)
    if len(layers) <= most:
        return list(range(len(layers)))
    named = ([i for name in finding.layers for i in known.get(name, [])][: max(1, most // 5)] for finding in findings)
    by_rank = dict.fromkeys(i for rank in zip_longest(*named) for i in rank if i is not None)
    sizes = {i: x.gradient for i, x in enumerate(layers) if x.role == "weights" and drawable(x.gradient)}
    chosen = {0, len(layers) - 1, *list(by_rank)[: most // 2]}
    slopes = {i: x.relative_slope for i, x in enumerate(layers) if x.relative_slope is not None}
    chosen |= {pick(of, key=of.__getitem__) for pick, of in ((min, sizes), (max, sizes), (min, slopes)) if of}
    for pool in (sizes, range(len(layers))):
        others = [i for i in pool if i not in chosen]
        count = min(len(others), most - len(chosen))
        chosen |= {others[round(k)] for k in np.linspace(0, len(others) - 1, count + 2)[1:-1]}
    return sorted(chosen)


def through_time(measurement: Measurement) -> list[tuple[int, Layer]]:
    """Recurrent layers with their positions, those whose gradient changes most through time first."""

    def change(steps: Sequence[float]) -> float:
        return max(steps) / min(steps) if all(map(drawable, steps)) else math.inf

    found = [(at, layer) for at, layer in enumerate(measurement.layers) if layer.steps]
    return sorted(found, key=lambda pair: -change(pair[1].steps or ()))


def layer_rows(measurement: Measurement, findings: Sequence[Finding], width: int) -> list[str]:
    """Lines of at most `width` columns: a heading, then a row for each shown layer in the order in which they ran."""
    layers = measurement.layers
    chosen = list(range(len(layers))) if len(layers) <= SHORT else most_telling(measurement, findings, ROWS)
    shown = [layers[i] for i in chosen]
    name, kind, bar = _("layer"), _("kind"), ""
    table = {"#": [f"{i + 1:,}" for i in chosen]} if len(shown) < len(layers) else {}
    table[name] = [printable(layer.name) or _("(the model)") for layer in shown]
    table[kind] = [shortened(printable(layer.kind), KIND_WIDTH) for layer in shown]
    optional = [kind]  # the last ones are left out first
    for column in number_columns(measurement):
        values = [value for value in map(column.value, shown) if value is not None]
        if column.key == "gradient":
            table[column.head] = [column.cell(layer) or "-" for layer in shown]
            if any(map(drawable, values)):
                table[bar] = [" " * BARS[0]] * len(shown)
                optional.append(bar)
        elif any(map(column.notable, values)):
            table[column.head] = [column.cell(layer, 2) or "-" for layer in shown]
            optional.append(column.head)
    found = findings_by_layer(measurement, findings)
    rules = [list(dict.fromkeys(findings[n].rule for n in found.get(i, ()))) for i in chosen]
    if any(rules):
        table[_("found")] = [_marks(of) for of in rules]

    longest = max(map(text_width, [name, *table[name]]))
    while optional and width - _taken(table, name) < min(longest, NAME_WIDTH):
        table.pop(optional.pop(), None)
    room = width - _taken(table, name)
    table[name] = [shortened(each, room) for each in table[name]]
    if bar in table:
        free = room - max(map(text_width, [name, *table[name]]))
        table[bar] = _bars(shown, layers, min(BARS[1], BARS[0] + free))
    part = ""
    if len(shown) < len(layers):
        part = _(", {count} of {all} layers", count=len(shown), all=f"{len(layers):,}")
    what = _("layers, input to loss{part}:", part=part)
    if measurement.profile.names:
        what = _("gradient profile, input to loss{part}:", part=part)
    to_the_right = (head not in (name, kind, bar, _("found")) for head in table)
    lines = _joined([[head, *texts] for head, texts in table.items()], to_the_right)
    return [*wrapped(what, width), *lines]


def _marks(rules: Sequence[str]) -> str:
    marks = [shortened(printable(rule), RULE_WIDTH) for rule in rules[:2]]
    return " ".join([*marks, *([f"+{len(rules) - 2}"] if len(rules) > 2 else [])])


def _taken(table: dict[str, list[str]], name: str) -> int:
    """Columns of all but the names."""
    return 2 + sum(2 + max(map(text_width, [head, *texts])) for head, texts in table.items() if head != name)


def _joined(table: Iterable[Sequence[str]], to_the_right: Iterable[bool]) -> list[str]:
    """Lines of a table that is given by its columns, each aligned to the right or to the left."""
    padded = []
    for texts, right in zip(table, to_the_right, strict=True):
        gaps = [" " * (max(map(text_width, texts)) - text_width(text)) for text in texts]
        padded.append([gap + text if right else text + gap for text, gap in zip(texts, gaps, strict=True)])
    return [("  " + "  ".join(row)).rstrip() for row in zip(*padded, strict=True)]


def _bars(shown: Iterable[Layer], layers: Iterable[Layer], width: int) -> list[str]:
    """A bar for each row, on one log axis of at least one decade for all layers."""
    logs = [math.log10(size) for layer in layers if drawable(size := layer.gradient)]
    high = max(logs, default=0.0)
    scale = (8 * width - 1) / (high - (low := min([high - 1, *logs])))
    sizes = [layer.gradient for layer in shown]
    eighths = [round(1 + scale * (math.log10(size) - low)) if drawable(size) else 0 for size in sizes]
    return [("█" * (count // 8) + " ▏▎▍▌▋▊▉"[count % 8]).rstrip() for count in eighths]


def spread_evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers 0 to count - 1, evenly spaced, with both ends."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most)).tolist()})
