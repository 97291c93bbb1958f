"""The charts of a diagnosis as data: boxes and lines, which the page draws as SVG."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from unstuck.findings import Finding
from unstuck.language import _
from unstuck.measure.measurement import BINS, SHUT, Layer, Measurement
from unstuck.report.axes import (
    BAND,
    COLUMNS,
    Columns,
    Floats,
    Ints,
    LogAxis,
    OutputAxis,
    Tick,
    columns,
    drawable,
    spread_evenly,
)
from unstuck.report.layer_table import findings_by_layer
from unstuck.wording import counted, percent, short_number

STEPS = 64
"""Rows of the heat map over steps."""
LINES = 6
"""Recurrent layers that are drawn."""
SHADES = 8
"""Shades of a share; of a difference, as many in both directions."""
MARKS = ("nan", "inf", "0", "none")
"""Sizes without a place on a log axis."""

Box = tuple[float, float, float, float]
"""Left, top, width, height."""
Point = tuple[float, float]
Sizes = Sequence[tuple[int, float | None]]
"""Positions of layers, ascending, with a size each."""


@dataclass(frozen=True)
class Chart:
    """Boxes and lines by their class, for which page.css has a colour each.

    x counts columns from the left, `width` in all; y counts pixels from the top. Lines are lists of points.
    """

    ident: str
    summary: str
    vertical: str
    width: int
    height: int
    ticks: list[Tick]
    boxes: dict[str, list[Box]]
    lines: dict[str, list[list[Point]]] = field(default_factory=dict)
    title: str = ""
    cells: bool = False


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a colour, a scale of colours from `first` to `text`, or the line of the layer `name`."""

    text: str
    colours: tuple[str, ...] = ()
    first: str = ""
    line: str = ""
    name: str = ""


@dataclass(frozen=True)
class Panel:
    """A section of the page, whose words are in the template; `note` says what is left out."""

    ident: str
    charts: list[Chart]
    legend: list[Key]
    note: str = ""


def panels(
    measurement: Measurement, findings: Sequence[Finding] = (), history: Sequence[Measurement] = ()
) -> list[Panel]:
    """All charts with data to draw, in the order of the page."""
    drawn = (
        _profile(measurement, findings),
        _history(measurement, history),
        _slopes(measurement),
        _outputs(measurement),
        _through_time(measurement),
        _updates(measurement),
    )
    return [panel for panel in drawn if panel is not None]


def _profile(measurement: Measurement, findings: Sequence[Finding]) -> Panel | None:
    sizes = [(at, layer.gradient) for at, layer in enumerate(measurement.layers) if layer.role == "weights"]
    found: dict[str, list[int]] = {}
    for at, numbers in findings_by_layer(measurement, findings).items():
        found.setdefault(findings[numbers[0]].severity.value, []).append(at)
    return _bars("profile", _("gradient size"), measurement, sizes, found)


def _updates(measurement: Measurement) -> Panel | None:
    """The update-to-weight ratio of every weight, at the first layer that uses it."""
    ratios = {w.name: w.update for w in measurement.weights if w.update is not None}
    sizes: list[tuple[int, float | None]] = []
    for at, layer in enumerate(measurement.layers):
        sizes += [(at, ratios.pop(name)) for name in layer.weights if name in ratios]
    return _bars("updates", _("update-to-weight ratio"), measurement, sizes, {})


def _bars(ident: str, what: str, measurement: Measurement, sizes: Sizes, found: dict[str, list[int]]) -> Panel | None:
    """Bars with a band each for findings, nan and inf above them, and for 0 and missing sizes below them."""
    if not sizes:
        return None
    layers = len(measurement.layers)
    marks: dict[str, list[int]] = {}
    for at, size in sizes:
        if not drawable(size):
            name = "none" if size is None else "nan" if math.isnan(size) else "inf" if math.isinf(size) else "0"
            marks.setdefault(name, []).append(at)
    above = [*(["found"] if found else []), *(name for name in ("nan", "inf") if name in marks)]
    known = [(at, size) for at, size in sizes if size is not None and drawable(size)]
    axis = LogAxis([size for _, size in known], above, [name for name in ("0", "none") if name in marks])
    width = min(layers, COLUMNS)
    boxes = _bars_of(known, layers, axis) if known else {}
    boxes["band"] = [(0, y, width, BAND) for y in axis.bands.values()]
    boxes |= {f"found-{s}": _marked(places, layers, axis.bands["found"]) for s, places in found.items()}
    boxes |= {f"mark-{name}": _marked(places, layers, axis.bands[name]) for name, places in marks.items()}
    counts = {name: counted(len(set(marks[name])), "layer") for name in MARKS if name in marks}
    legend = [Key(_("{severity} found", severity=_(severity)), (f"found-{severity}",)) for severity in found]
    legend += [Key(_mark_text(name, count), (f"mark-{name}",)) for name, count in counts.items()]
    words = {"none": _("no value")}
    parts = [_("{value} in {layers}", value=words.get(name, name), layers=count) for name, count in counts.items()]
    if known:
        ends, read = (min(known, key=lambda p: p[1]), max(known, key=lambda p: p[1])), measurement.layers
        low, high = (
            _("{size} (layer {number}, {name})", size=short_number(size), number=at + 1, name=read[at].name)
            for at, size in ends
        )
        name = what[0].upper() + what[1:]
        parts.insert(0, _("{name} from {low} to {high}", name=name, low=low, high=high))
    chart = Chart(
        f"chart-{ident}", _("{text}.", text=_("; ").join(parts)), what, width, axis.height, axis.ticks(), boxes
    )
    return Panel(ident, [chart], legend)


def _mark_text(name: str, layers: str) -> str:
    """What a mark means, and in how many layers it is."""
    words = {
        "nan": _("not a number"),
        "inf": _("infinite"),
        "0": _("vanished to 0"),
        "none": _("no gradient came back"),
    }
    label = _("none") if name == "none" else name
    return _("{mark}: {meaning} in {layers}", mark=label, meaning=words[name], layers=layers)


def _bars_of(sizes: Sequence[tuple[int, float]], layers: int, axis: LogAxis) -> dict[str, list[Box]]:
    """A bar up to the largest size of each column, with a tip from there to the smallest."""
    bars: list[Box] = []
    tips: list[Box] = []
    cols = columns([at for at, _ in sizes], layers)
    for left, right, members in zip(cols.left.tolist(), cols.right.tolist(), cols.members, strict=True):
        gap = 0.12 * (right - left) if layers <= COLUMNS else 0.0
        values = [sizes[i][1] for i in members]
        x, width, top = left + gap, right - left - 2 * gap, axis.y(max(values))
        bars.append((x, top, width, axis.bottom - top))
        tips.append((x, top - 1.2, width, axis.y(min(values)) - top + 2.4))
    return {"bar": bars, "tip": tips}


def _marked(places: Sequence[int], layers: int, band: int) -> list[Box]:
    """A mark in a band for each layer; marks that touch are one box."""
    width = min(layers, COLUMNS)
    levels = np.isin(np.arange(width), np.array(places) * width // layers).astype(np.int64)
    edges = np.arange(width + 1, dtype=np.float64)
    return _runs(levels[None], edges[:-1], edges[1:], band + 3, BAND - 6)["1"]


def _through_time(measurement: Measurement) -> Panel | None:
    found = through_time(measurement)
    drawn = [(layer.name, layer.steps or ()) for _, layer in found[:LINES]]
    if not drawn:
        return None
    values = [size for _, sizes in drawn for size in sizes]
    axis = LogAxis(
        values, [] if all(map(math.isfinite, values)) else ["inf, nan"], ["0"] if any(v <= 0 for v in values) else []
    )
    lines, legend = {}, []
    for i, (name, sizes) in enumerate(drawn):
        strokes: list[list[Point]] = [[]]
        for step, size in enumerate(sizes):
            x = (step + 0.5) / len(sizes) * 1000
            if drawable(size):
                strokes[-1].append((x, axis.y(size)))
            else:  # a dash in the band
                y = axis.bands["0" if size <= 0 else "inf, nan"] + BAND / 2
                strokes += [[(x - 3, y), (x + 3, y)], []]
        lines[f"line{i}"] = [stroke for stroke in strokes if stroke]
        ends = {"first": short_number(sizes[0]), "last": short_number(sizes[-1])}
        fact = _("{first} at the first step, {last} at the last", **ends)
        legend.append(Key(fact, line=f"line{i}", name=name))
    facts = _("; ").join(_("{name}: {text}", name=key.name, text=key.text) for key in legend)
    summary = _("Gradient size through time. {facts}.", facts=facts)
    bands: dict[str, list[Box]] = {"band": [(0, y, 1000, BAND) for y in axis.bands.values()]}
    chart = Chart("chart-time", summary, _("gradient size"), 1000, axis.height, axis.ticks(), bands, lines)
    layers = counted(len(found), "recurrent layer")
    few = _("{count} of {layers} are drawn, those in which it changes most.", count=len(drawn), layers=layers)
    return Panel("time", [chart], legend, few if len(found) > len(drawn) else "")


def through_time(measurement: Measurement) -> list[tuple[int, Layer]]:
    """Recurrent layers with their positions, those whose gradient changes most through time first."""

    def change(steps: Sequence[float]) -> float:
        return math.log(max(steps)) - math.log(min(steps)) if all(map(drawable, steps)) else math.inf

    found = [(at, layer) for at, layer in enumerate(measurement.layers) if layer.steps]
    return sorted(found, key=lambda pair: -change(pair[1].steps or ()))


def _history(measurement: Measurement, measurements: Sequence[Measurement]) -> Panel | None:
    """The gradient of every layer over the median of its step, in shades of log10."""
    chosen = [measurements[i] for i in spread_evenly(len(measurements), STEPS)]
    places = {layer.name: at for at, layer in enumerate(measurement.layers) if layer.role == "weights"}
    if len(chosen) < 2 or not places:
        return None
    rows = len(chosen)
    cols = columns(list(places.values()), len(measurement.layers), COLUMNS // 2)  # fewer, because it has many rows
    table = cols.farthest(np.array([_relative_logs(one, list(places)) for one in chosen]))
    zero, nonfinite = table == -math.inf, table == math.inf
    largest = float(np.abs(table[np.isfinite(table)]).max(initial=0))
    limit = min(max(largest, 0.5), 3.0)
    shades = np.round(np.clip(np.nan_to_num(table, posinf=0, neginf=0) / limit, -1, 1) * SHADES) + SHADES + 1
    last = 2 * SHADES + 1
    levels = np.select([np.isnan(table), nonfinite, zero], [0, last + 1, last + 2], shades).astype(np.int64)
    steps = [i if one.step is None else one.step for i, one in enumerate(chosen)]
    ticks = [Tick((i + 0.5) / rows, f"{steps[i]:,}", line=False) for i in spread_evenly(rows, 6)]
    summary = _(
        "Gradient size of every layer over the median of its step, in {count} steps from {first} to {last}; at most "
        "{times} times larger or smaller.",
        count=rows,
        first=steps[0],
        last=steps[-1],
        times=short_number(10 ** min(largest, 300)),
    )
    height = max(60, min(280, 16 * rows))
    boxes = _cells(levels, cols, height, "d")
    chart = Chart("chart-history", summary, _("step"), cols.count, height, ticks, boxes, cells=True)
    times = short_number(10**limit)
    ends = _("{times} times smaller", times=times), _("{times} times larger", times=times)
    legend = [_scale("d", range(1, last + 1), *ends)]
    legend += [Key("0", (f"d{last + 2}",))] if zero.any() else []
    legend += [Key(_("inf or nan"), (f"d{last + 1}",))] if nonfinite.any() else []
    few = _("Thinned: {count} of {all:,} measurements, evenly.", count=rows, all=len(measurements))
    return Panel("history", [chart], legend, few if len(measurements) > rows else "")


def _relative_logs(measurement: Measurement, names: Sequence[str]) -> Floats:
    """log10 of the gradient of these layers over their median; -inf for 0, inf for inf and nan, nan for unknown."""
    found = {layer.name: layer.gradient for layer in measurement.layers if layer.gradient is not None}
    known = np.array([name in found for name in names])
    sizes = np.nan_to_num([found.get(name, 1.0) for name in names], nan=math.inf, posinf=math.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(known, np.log10(sizes), math.nan)
    finite = logs[np.isfinite(logs)]
    return np.asarray(logs - (np.median(finite) if finite.size else 0.0), dtype=np.float64)


def _slopes(measurement: Measurement) -> Panel | None:
    """The histogram of the mean relative slopes of the neurons of every activation."""
    found = [(at, layer) for at, layer in enumerate(measurement.layers) if layer.slopes is not None]
    if not found:
        return None
    counts = np.array([layer.slopes for _, layer in found], dtype=np.float64).T
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    cols = columns([at for at, _ in found], len(measurement.layers))
    levels = _shades(cols.mean(shares)[::-1], 0.5)
    levels[-1] += np.where(levels[-1] > 0, SHADES, 0)  # saturated neurons have another colour
    shut = shares[: round(SHUT * BINS)].sum(axis=0)
    at, worst = found[int(np.argmax(shut))]
    summary = _(
        "Mean relative slopes of the neurons of {activations}. Worst is layer {number}, {name}: {share} % of its "
        "neurons are below {limit:g}.",
        activations=counted(len(found), "activation"),
        number=at + 1,
        name=worst.name,
        share=percent(float(shut.max())),
        limit=SHUT,
    )
    ticks = [Tick(1 - v, f"{v:g}", line=False) for v in (0, 0.25, 0.5, 0.75, 1)]
    legend = [_scale("q", range(1, SHADES + 1), _("few neurons"), _("all"))]
    legend += [_scale("q", range(SHADES + 1, 2 * SHADES + 1), _("below {limit:g}: few", limit=SHUT), _("all"))]
    boxes = _cells(levels, cols, 200)
    chart = Chart("chart-slopes", summary, _("relative slope"), cols.count, 200, ticks, boxes, cells=True)
    return Panel("slopes", [chart], legend)


def _outputs(measurement: Measurement) -> Panel | None:
    """Histograms of the outputs of the layers with weights, and of the others, each on one common axis."""
    charts = []
    for ident, title in (("weighted", _("Layers with weights")), ("activations", _("Activations and attention"))):
        layers = [(at, layer) for at, layer in enumerate(measurement.layers) if any(layer.histogram or ())]
        found = [(at, layer) for at, layer in layers if (layer.role == "weights") is (ident == "weighted")]
        if not found:
            continue
        axis = OutputAxis([layer for _, layer in found])
        cols = columns([at for at, _ in found], len(measurement.layers))
        table = cols.mean(np.stack([axis.rows(layer) for _, layer in found], axis=1))[::-1]
        levels = _shades(table / table.max(axis=0), 0.7)
        values = {"kinds": title.lower(), "low": short_number(axis.low), "high": short_number(axis.high)}
        summary = _(
            "Outputs of {layers} ({kinds}), from {low} to {high}.", layers=counted(len(found), "layer"), **values
        )
        what = _("output")
        if axis.knee:
            what = _("output, logarithmic beyond {size}", size=short_number(axis.knee))
        boxes, name = _cells(levels, cols, 160), f"chart-{ident}"
        charts.append(Chart(name, summary, what, cols.count, 160, axis.ticks(), boxes, title=title, cells=True))
    return Panel("outputs", charts, [_scale("q", range(1, SHADES + 1), _("few values"), _("most"))]) if charts else None


def _cells(levels: Ints, cols: Columns, height: int, colours: str = "q") -> dict[str, list[Box]]:
    """Cells for levels [rows, columns], row 0 at the top; 0 is left out, level n has the class `colours` + n."""
    return _runs(levels, cols.left, cols.right, 0.0, height / len(levels), colours)


def _runs(levels: Ints, left: Floats, right: Floats, top: float, tall: float, prefix: str = "") -> dict[str, list[Box]]:
    """A box for each run of equal levels above 0 in neighbouring columns, by prefix and level."""
    boxes: dict[str, list[Box]] = {}
    parts = np.cumsum([0, *(left[1:] > right[:-1])]).tolist()  # parts of the row without a gap
    for row, line in enumerate(levels.tolist()):
        cells = zip(line, parts, left.tolist(), right.tolist(), strict=True)
        for (level, _part), run in itertools.groupby(cells, key=lambda cell: cell[:2]):
            if level:
                ends = [cell[2:] for cell in run]
                start, end = ends[0][0], ends[-1][1]
                boxes.setdefault(f"{prefix}{level}", []).append((start, top + row * tall, end - start, tall))
    return boxes


def _shades(table: Floats, exponent: float) -> Ints:
    """Shares as shades, small ones raised to be visible; 0 for none."""
    return np.ceil(SHADES * table**exponent - 1e-9).astype(np.int64)


def _scale(colours: str, levels: Iterable[int], first: str, last: str) -> Key:
    return Key(last, tuple(f"{colours}{level}" for level in levels), first)
