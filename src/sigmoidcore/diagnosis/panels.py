"""The figures of the page: each one takes a diagnosis and gives a panel, or None where there is nothing to draw."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sigmoidcore.diagnosis import charts, depth
from sigmoidcore.diagnosis.charts import Chart, Levels, Tick
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.listing import named_layers
from sigmoidcore.diagnosis.measurement import BINS, SHUT, Layer, Measurement
from sigmoidcore.diagnosis.wording import counted, percent, power, short, shown

COLUMNS = 480
"""Columns of a figure at most; those of the heat map over steps, which has many rows, are half as many."""
STEPS = 64
"""Rows of the heat map over steps."""
SHADES = 8
"""Shades of a share; of a difference, as many in both directions."""
TALL = 220
"""Height in pixels of a log axis."""
BAND = 16
"""Height in pixels of a band for what a log axis has no place for."""

_MARKS = {"nan": "not a number", "inf": "infinite", "0": "vanished to 0", "none": "no gradient came back"}


@dataclass(frozen=True)
class Panel:
    """A section of the page: its name among the contents, what it shows and how to read it; all but `title` is HTML."""

    ident: str
    name: str
    title: str
    text: str
    body: str
    legend: str = ""


def panels(diagnosis: Diagnosis) -> list[Panel]:
    """All that there is something to draw for, in the order of the page."""
    drawn: Sequence[Callable[[Diagnosis], Panel | None]] = (profile, history, slopes, outputs, through_time, updates)
    return [panel for draw in drawn if (panel := draw(diagnosis)) is not None]


def profile(diagnosis: Diagnosis) -> Panel | None:
    """Gradient sizes on a log axis, and above them where the findings are."""
    measurement = diagnosis.measurement
    sizes = depth.gradients(measurement)
    if not sizes.at.size and not sizes.missing.size:
        return None
    found = _found(diagnosis)
    chart = _bars("chart-profile", "gradient size", measurement, sizes, ("gradient", "gain"), found)
    legend = "".join(_key(f"found-{s}", f"{s} found") for s in Severity if found[s])
    legend += _legend_of_marks(sizes) + _thinned(measurement)
    text = (
        "The size of the gradient that reaches every layer with weights. Level is good; a slope means that each layer "
        "makes the gradient smaller, or larger."
    )
    return Panel("profile", "Profile", "Gradient profile", text, str(chart), legend)


def updates(diagnosis: Diagnosis) -> Panel | None:
    """Update-to-weight ratios."""
    measurement = diagnosis.measurement
    sizes = depth.updates(measurement)
    if not sizes.at.size:
        return None
    chart = _bars("chart-updates", "update-to-weight ratio", measurement, sizes, ("update",), {})
    legend = _legend_of_marks(sizes) + _thinned(measurement)
    text = (
        "How much the last step of the optimizer changed each weight, over the size of the weight. About "
        f"{power(-3)} is usual; 1 means that nothing of the weight was left."
    )
    return Panel("updates", "Updates", "Update-to-weight ratio", text, str(chart), legend)


def _found(diagnosis: Diagnosis) -> dict[Severity, list[int]]:
    """Places of the layers that findings name, under the worst severity of each."""
    worst: dict[int, Severity] = {}
    order = list(Severity)
    for finding, places in zip(
        diagnosis.findings, named_layers(diagnosis.measurement, diagnosis.findings), strict=True
    ):
        for place in places:
            worst[place] = min(worst.get(place, finding.severity), finding.severity, key=order.index)
    return {severity: sorted(place for place, s in worst.items() if s is severity) for severity in Severity}


def _bars(
    ident: str,
    what: str,
    measurement: Measurement,
    sizes: depth.Sizes,
    shows: tuple[str, ...],
    found: dict[Severity, list[int]],
) -> Chart:
    """Bars on a log axis, with a band each for findings, nan and inf above it, for 0 and for none at all below it."""
    layers, marked = len(measurement.layers), sizes.marked
    over = [*(["found"] if any(found.values()) else []), *(name for name in ("nan", "inf") if name in marked)]
    under = [name for name in ("0", "none") if name in marked]
    top = BAND * len(over)
    bottom = top + TALL
    height = bottom + BAND * len(under)
    low, high = sizes.decades
    count = depth.columns(layers, COLUMNS)
    # Layers with a column of their own have a little room between their bars.
    gap = 0.12 * depth.pitch(sizes.at) * count / layers if layers <= COLUMNS else 0.0

    smallest, largest = depth.envelope(sizes, layers, COLUMNS)
    body, edge = [], []
    for first, end in _columns_of_bars(sizes, largest, layers, count):
        upper, lower = (bottom - (math.log10(v[first]) - low) / (high - low) * TALL for v in (largest, smallest))
        x, width = first + gap, end - first - 2 * gap
        body.append(f"M{x:.5g} {bottom}h{width:.5g}V{upper:.1f}h-{width:.5g}z")
        edge.append(f"M{x:.5g} {upper - 1.2:.1f}h{width:.5g}V{lower + 1.2:.1f}h-{width:.5g}z")
    picture = f'<path class="bar" d="{"".join(body)}"/><path class="tip" d="{"".join(edge)}"/>'

    ticks = charts.decades(low, high, height, top, bottom)
    starts = [BAND * i for i in range(len(over))] + [bottom + BAND * i for i in range(len(under))]
    for start, name in zip(starts, [*over, *under], strict=True):
        ticks.append(Tick((start + BAND / 2) / height, name, line=False))
        picture += f'<path class="band" d="M0 {start}h{count}v{BAND}h-{count}z"/>'
        if name == "found":
            for severity, places in found.items():
                runs = depth.spans(np.array(places, dtype=np.int64), layers, count, width=1)
                picture += charts.boxes(charts.merged(runs), start + 3, BAND - 6, 0, f"found-{severity}")
        else:
            runs = depth.spans(marked[name], layers, count, width=1)
            picture += charts.boxes(charts.merged(runs), start + 3, BAND - 6, 0, f"mark-{name}")
    summary = _summary(what, measurement, sizes)
    return Chart(ident, summary, count, height, picture, what, ticks, charts.numbered(layers), shows=shows)


def _columns_of_bars(sizes: depth.Sizes, largest: depth.Floats, layers: int, count: int) -> list[tuple[int, int]]:
    """First column and the one after the last: of each layer where it has its own, else of each column."""
    if layers > COLUMNS:
        return [(column, column + 1) for column in np.flatnonzero(~np.isnan(largest)).tolist()]
    spans = depth.spans(sizes.at, layers, count)
    return sorted({span for span, drawable in zip(spans, sizes.drawable.tolist(), strict=True) if drawable})


def _summary(what: str, measurement: Measurement, sizes: depth.Sizes) -> str:
    """The figure in a sentence or two."""
    known, places = sizes.values[sizes.drawable], sizes.at[sizes.drawable]
    parts = []
    if known.size:
        ends = [(float(known[i]), int(places[i])) for i in (np.argmin(known), np.argmax(known))]
        said = [f"{short(v)} (layer {place + 1}, {shown(measurement.layers[place].name)})" for v, place in ends]
        parts.append(f"{what[0].upper()}{what[1:]} from {said[0]} to {said[1]}")
    for name, at in sizes.marked.items():
        parts.append(f"{'no value' if name == 'none' else name} in {counted(len(set(at.tolist())), 'layer')}")
    return "; ".join(parts) + "."


def history(diagnosis: Diagnosis) -> Panel | None:
    """Gradient sizes by layer and step."""
    if len(diagnosis.history) < 2:
        return None
    measured = depth.history(diagnosis.history, STEPS)
    if not measured.at.size:
        return None
    layers, rows = len(diagnosis.measurement.layers), len(measured.steps)
    extreme = np.where(measured.nonfinite, math.inf, np.where(measured.vanished, -math.inf, measured.logs))
    table = depth.farthest(measured.at, extreme, layers, COLUMNS // 2)
    farthest = float(np.abs(table[np.isfinite(table)]).max(initial=0))
    limit = min(max(farthest, 0.5), 3.0)
    shades = np.clip(np.nan_to_num(table, posinf=0, neginf=0) / limit, -1, 1) * SHADES
    levels = np.where(np.isnan(table), 0, np.round(shades).astype(np.int64) + SHADES + 1)
    levels[table == math.inf], levels[table == -math.inf] = 2 * SHADES + 2, 2 * SHADES + 3

    height = max(60, min(280, 16 * rows))
    ticks = [Tick((i + 0.5) / rows, f"{measured.steps[i]:,}", line=False) for i in depth.spread_evenly(rows, 6)]
    summary = (
        f"Gradient size of every layer over the median of its step, in {rows} steps from {measured.steps[0]} to "
        f"{measured.steps[-1]}; at most {short(10**farthest)} times larger or smaller."
    )
    picture = charts.cells(levels, height, "d")
    chart = Chart(
        "chart-history",
        summary,
        table.shape[1],
        height,
        picture,
        "step",
        ticks,
        charts.numbered(layers),
        shows=("gradient",),
    )
    times = short(10**limit)
    legend = _scale("d", range(1, 2 * SHADES + 2), f"{times} times smaller", f"{times} times larger")
    legend += _key(f"d{2 * SHADES + 3}", "0") if measured.vanished.any() else ""
    legend += _key(f"d{2 * SHADES + 2}", "inf or nan") if measured.nonfinite.any() else ""
    text = (
        "How the profile changed in training. A row is a step; its colours tell how far each layer is from its median."
    )
    if len(diagnosis.history) > rows:
        text += f" Thinned: {rows} of {len(diagnosis.history):,} measurements, evenly."
    return Panel(
        "history",
        "Over steps",
        "Gradient size by layer and step",
        text,
        str(chart),
        legend + _thinned(diagnosis.measurement, 2),
    )


def slopes(diagnosis: Diagnosis) -> Panel | None:
    """The neurons' mean relative slopes in every activation."""
    measurement = diagnosis.measurement
    found = depth.slopes(measurement)
    if not found.at.size:
        return None
    table = depth.averaged(found.at, found.shares, len(measurement.layers), COLUMNS)[::-1]
    levels = _shades(table, 0.5)
    levels[-1] += np.where(levels[-1] > 0, SHADES, 0)  # those that are saturated have a colour of their own
    shut = found.shares[: round(SHUT * BINS)].sum(axis=0)
    worst = int(np.argmax(shut))
    place = int(found.at[worst])
    summary = (
        f"Mean relative slopes of the neurons of {counted(found.at.size, 'activation')}. Worst is layer {place + 1}, "
        f"{shown(measurement.layers[place].name)}: {percent(float(shut[worst]))} % of its neurons are below {SHUT:g}."
    )
    chart = Chart(
        "chart-slopes",
        summary,
        table.shape[1],
        200,
        charts.cells(levels, 200, "q"),
        "relative slope",
        [Tick(1 - v, f"{v:g}", line=False) for v in (0, 0.25, 0.5, 0.75, 1)],
        charts.numbered(len(measurement.layers)),
        shows=("slope", "saturated", "dead"),
    )
    text = (
        "A column is an activation; its neurons lie at their mean relative slope: 1 in the middle of a sigmoid, 0 "
        "where no gradient comes through. In the ReLU family it is the share of samples for which a neuron is active."
    )
    legend = _scale("q", range(1, SHADES + 1), "few neurons", "all")
    legend += _scale("q", range(SHADES + 1, 2 * SHADES + 1), f"below {SHUT:g}: few", "all")
    return Panel("slopes", "Saturation", "Neuron saturation", text, str(chart), legend + _thinned(measurement))


def _shades(table: depth.Floats, exponent: float) -> Levels:
    """Shares as shades, small ones raised so that they are seen; 0 for none."""
    return np.ceil(SHADES * np.nan_to_num(table) ** exponent - 1e-9).astype(np.int64)


def outputs(diagnosis: Diagnosis) -> Panel | None:
    """How the outputs are distributed."""
    measurement = diagnosis.measurement
    drawn = [
        f"<h3>{title}</h3>{_outputs(found, ident, title, measurement)}"
        for ident, title, weighted in (
            ("chart-weighted", "Layers with weights", True),
            ("chart-activations", "Activations and attention", False),
        )
        if (found := depth.outputs(measurement, weighted)).at.size
    ]
    if not drawn:
        return None
    text = (
        "A column is a layer, strongest where most of its outputs lie. One that has shrunk to a line has lost its "
        "signal; a sigmoid whose outputs lie at both ends is saturated."
    )
    legend = _scale("q", range(1, SHADES + 1), "few values", "most") + _thinned(measurement)
    return Panel("outputs", "Outputs", "Outputs over depth", text, "".join(drawn), legend)


def _outputs(found: depth.Cells, ident: str, title: str, measurement: Measurement) -> Chart:
    layers, height = len(measurement.layers), 160
    table = depth.averaged(found.at, found.shares, layers, COLUMNS)[::-1]
    fullest = np.nan_to_num(table).max(axis=0)
    picture = charts.cells(_shades(table / np.where(fullest > 0, fullest, 1), 0.7), height, "q")
    ticks = [Tick(1 - at, label) for at, label in depth.value_ticks(found.axis)]
    ends = f"from {short(found.axis.low)} to {short(found.axis.high)}"
    summary = f"Outputs of {counted(found.at.size, 'layer')} ({title.lower()}), {ends}."
    what = "output" if found.axis.knee is None else f"output, logarithmic beyond {short(found.axis.knee)}"
    return Chart(
        ident, summary, table.shape[1], height, picture, what, ticks, charts.numbered(layers), shows=("rms", "spread")
    )


def through_time(diagnosis: Diagnosis) -> Panel | None:
    """The gradient by time step of recurrent layers."""
    found = depth.through_time(diagnosis.measurement)
    drawn = [(place, layer, layer.steps or ()) for place, layer in found[: depth.LINES]]
    if not drawn:
        return None
    values = np.array([size for _, _, sizes in drawn for size in sizes], dtype=np.float64)
    nowhere = np.zeros(0, dtype=np.int64)
    low, high = depth.Sizes(np.zeros(values.size, dtype=np.int64), values, nowhere).decades
    odd, vanished = not bool(np.isfinite(values).all()), bool((values == 0).any())
    top, width = BAND * odd, 1000
    bottom = top + TALL
    height = bottom + BAND * vanished

    def path(sizes: Sequence[float]) -> str:
        """A line, broken where a size has no place on the axis, with a dash in the band instead."""
        d, pen = "", "M"
        for step, size in enumerate(sizes):
            x = (step + 0.5) / len(sizes) * width
            if 0 < size < math.inf:
                d += f"{pen}{x:.5g} {bottom - (math.log10(size) - low) / (high - low) * TALL:.1f}"
                pen = "L"
            else:
                d += f"M{x - 3:.5g} {bottom + BAND / 2 if size == 0 else BAND / 2:g}h6"
                pen = "M"
        return d

    ticks = charts.decades(low, high, height, top, bottom)
    picture = ""
    for there, start, name in ((odd, 0, "inf, nan"), (vanished, bottom, "0")):
        if there:
            ticks.append(Tick((start + BAND / 2) / height, name, line=False))
            picture += f'<path class="band" d="M0 {start}h{width}v{BAND}h-{width}z"/>'
    picture += "".join(f'<path class="line line{i}" d="{path(sizes)}"/>' for i, (_, _, sizes) in enumerate(drawn))
    facts = [f"{short(sizes[0])} at the first step, {short(sizes[-1])} at the last" for _, _, sizes in drawn]
    said = "; ".join(f"{shown(layer.name)}: {fact}" for (_, layer, _), fact in zip(drawn, facts, strict=True))
    chart = Chart(
        "chart-time",
        f"Gradient size through time. {said}.",
        width,
        height,
        picture,
        "gradient size",
        ticks,
        [],
        ("first step", "time", "last step"),
        over_depth=False,
    )
    legend = "".join(
        _line(i, place, layer, fact) for i, ((place, layer, _), fact) in enumerate(zip(drawn, facts, strict=True))
    )
    text = "The size of the gradient that reaches each time step of a recurrent layer from all the steps after it."
    if len(found) > len(drawn):
        text += f" {len(drawn)} of {counted(len(found), 'recurrent layer')} are drawn, those in which it changes most."
    return Panel("time", "Through time", "Gradient through time", text, str(chart), legend)


def _line(number: int, place: int, layer: Layer, fact: str) -> str:
    """A line's entry in the legend: its style, its layer as a link, its ends."""
    style = f'<svg viewBox="0 0 26 8" aria-hidden="true"><path class="line line{number}" d="M1 4h24"/></svg>'
    name = f'<bdi class="name">{html.escape(shown(layer.name))}</bdi>'
    link = f'<a class="layer" href="#layer-{place + 1}" data-layer="{place}">{name}</a>'
    return f'<span class="key">{style}<span>{link}: {fact}</span></span>'


def _scale(kind: str, levels: Sequence[int], first: str, last: str) -> str:
    swatches = "".join(f'<path class="{kind}{level}" d="M{i} 0h1v1h-1z"/>' for i, level in enumerate(levels))
    return (
        f'<span class="key">{first}<svg class="scale cells" viewBox="0 0 {len(levels)} 1" preserveAspectRatio="none"'
        f' aria-hidden="true">{swatches}</svg>{last}</span>'
    )


def _key(name: str, text: str) -> str:
    swatch = f'<svg class="swatch" viewBox="0 0 1 1" aria-hidden="true"><path class="{name}" d="M0 0h1v1h-1z"/></svg>'
    return f'<span class="key">{swatch}{text}</span>'


def _legend_of_marks(sizes: depth.Sizes) -> str:
    """What the marks in the bands mean, and how many layers have one."""
    return "".join(
        _key(f"mark-{name}", f"{name}: {_MARKS[name]} in {counted(len(set(at.tolist())), 'layer')}")
        for name, at in sizes.marked.items()
    )


def _thinned(measurement: Measurement, part: int = 1) -> str:
    """What a column stands for, where there are more layers than columns."""
    layers, most = len(measurement.layers), COLUMNS // part
    if layers <= most:
        return ""
    return f'<span class="key">Thinned: a column stands for {math.ceil(layers / most)} neighbouring layers.</span>'
