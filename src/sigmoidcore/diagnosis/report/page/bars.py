"""Figures of bars on a log axis: the gradient profile and the update-to-weight ratios.

Each one takes a diagnosis and gives a panel, or None where there is nothing to draw.
"""

import math

import numpy as np

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.report import depth, thinning
from sigmoidcore.diagnosis.report.listing import named_layers
from sigmoidcore.diagnosis.report.page import charts
from sigmoidcore.diagnosis.report.page.charts import BAND, TALL, Chart, Tick
from sigmoidcore.diagnosis.report.page.panel import COLUMNS, Panel, key, thinned
from sigmoidcore.diagnosis.report.wording import counted, power, short, shown

_MARKS = {"nan": "not a number", "inf": "infinite", "0": "vanished to 0", "none": "no gradient came back"}


def profile(diagnosis: Judgement) -> Panel | None:
    """Gradient sizes on a log axis, and above them where the findings are."""
    measurement = diagnosis.measurement
    sizes = depth.gradients(measurement)
    if not sizes.at.size and not sizes.missing.size:
        return None
    found = _found(diagnosis)
    chart = _bars("chart-profile", "gradient size", measurement, sizes, ("gradient", "gain"), found)
    legend = "".join(key(f"found-{s}", f"{s} found") for s in Severity if found[s])
    legend += _legend_of_marks(sizes) + thinned(measurement)
    text = (
        "The size of the gradient that reaches every layer with weights. Level is good; a slope means that each layer "
        "makes the gradient smaller, or larger."
    )
    return Panel("profile", "Profile", "Gradient profile", text, str(chart), legend)


def updates(diagnosis: Judgement) -> Panel | None:
    """Update-to-weight ratios."""
    measurement = diagnosis.measurement
    sizes = depth.updates(measurement)
    if not sizes.at.size:
        return None
    chart = _bars("chart-updates", "update-to-weight ratio", measurement, sizes, ("update",), {})
    legend = _legend_of_marks(sizes) + thinned(measurement)
    text = (
        "How much the last step of the optimizer changed each weight, over the size of the weight. About "
        f"{power(-3)} is usual; 1 means that nothing of the weight was left."
    )
    return Panel("updates", "Updates", "Update-to-weight ratio", text, str(chart), legend)


def _found(diagnosis: Judgement) -> dict[Severity, list[int]]:
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
    count = thinning.columns(layers, COLUMNS)
    # Layers with a column of their own have a little room between their bars.
    gap = 0.12 * thinning.pitch(sizes.at) * count / layers if layers <= COLUMNS else 0.0

    smallest, largest = thinning.envelope(sizes, layers, COLUMNS)
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
                runs = thinning.spans(np.array(places, dtype=np.int64), layers, count, width=1)
                picture += charts.boxes(charts.merged(runs), start + 3, BAND - 6, 0, f"found-{severity}")
        else:
            runs = thinning.spans(marked[name], layers, count, width=1)
            picture += charts.boxes(charts.merged(runs), start + 3, BAND - 6, 0, f"mark-{name}")
    summary = _summary(what, measurement, sizes)
    return Chart(ident, summary, count, height, picture, what, ticks, charts.numbered(layers), shows=shows)


def _columns_of_bars(sizes: depth.Sizes, largest: depth.Floats, layers: int, count: int) -> list[tuple[int, int]]:
    """First column and the one after the last: of each layer where it has its own, else of each column."""
    if layers > COLUMNS:
        return [(column, column + 1) for column in np.flatnonzero(~np.isnan(largest)).tolist()]
    spans = thinning.spans(sizes.at, layers, count)
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


def _legend_of_marks(sizes: depth.Sizes) -> str:
    """What the marks in the bands mean, and how many layers have one."""
    return "".join(
        key(f"mark-{name}", f"{name}: {_MARKS[name]} in {counted(len(set(at.tolist())), 'layer')}")
        for name, at in sizes.marked.items()
    )
