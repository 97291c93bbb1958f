"""The charts of a diagnosis: their paths, and the facts that the words of the page name."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from unstuck.findings import Finding
from unstuck.measure.measurement import BINS, SHUT, Layer, Measurement
from unstuck.report.layers import evenly, findings_by_layer, update_of
from unstuck.report.svg import BAND, Chart, Floats, Ints, LogAxis, Tick, ValueAxis, band_of, drawable, edges

COLUMNS = 480
"""Layers that are drawn at most, at even distances."""
STEPS = 64
"""Rows of the heat map over steps."""
SHADES = 8
"""Shades of a share; of a difference, as many in both directions."""
ROWS = 40
"""Rows of the common axis of the histograms of the outputs."""

Places = Sequence[tuple[int, Layer]]
"""Layers with their positions."""
Sizes = Sequence[tuple[int, float | None]]
"""Sizes with the positions of their layers."""


def charts(
    measurement: Measurement, findings: Sequence[Finding] = (), history: Sequence[Measurement] = ()
) -> dict[str, list[Chart]]:
    """The charts of each section of the page that has data to draw, in order."""
    layers, count = list(enumerate(measurement.layers)), len(measurement.layers)
    weighted = [(at, layer) for at, layer in layers if layer.role == "weights"]
    updates = [
        (at, size) for at, size in enumerate(map(update_of(measurement), measurement.layers)) if size is not None
    ]
    found: dict[str, list[int]] = {}
    for at, numbers in findings_by_layer(measurement, findings).items():
        found.setdefault(findings[numbers[0]].severity.value, []).append(at)
    outputs = [(at, layer) for at, layer in layers if any(layer.histogram or ())]
    drawn = {
        "profile": [_bars("profile", count, [(at, layer.gradient) for at, layer in weighted], found)],
        "history": [_history(count, weighted, history)],
        "slopes": [_slopes(count, [(at, layer) for at, layer in layers if layer.slopes is not None])],
        "outputs": [
            _outputs("weighted", count, [(at, layer) for at, layer in outputs if layer.role == "weights"]),
            _outputs("activations", count, [(at, layer) for at, layer in outputs if layer.role != "weights"]),
        ],
        "updates": [_bars("updates", count, updates, {})],
    }
    known = {ident: [chart for chart in own if chart is not None] for ident, own in drawn.items()}
    return {ident: own for ident, own in known.items() if own}


def _bars(ident: str, layers: int, sizes: Sizes, found: dict[str, list[int]]) -> Chart | None:
    """Bars, and a mark in a band for each finding, and for each size that has no place on the axis."""
    if not sizes:
        return None
    axis = LogAxis([size for _at, size in sizes], ["found"] if found else [])
    lost = [(at, band_of(size)) for at, size in sizes if not drawable(size)]
    known = [(at, size) for at, size in sizes if drawable(size)]
    ends = [of(known, key=lambda pair: pair[1]) for of in (min, max) if known]
    drawn = sorted({*evenly(known, COLUMNS), *ends})
    marks = Counter(sorted((band for _at, band in lost), key=list(axis.bands).index))
    facts = {"marks": marks, "found": list(found), "ends": ends, "drawn": len(drawn), "all": len(known)}
    chart = axis.chart(ident, layers, facts)
    columns = zip(*edges([at for at, _ in drawn], layers), strict=True) if drawn else ()
    for (x, end), (_at, size) in zip(columns, drawn, strict=True):
        gap, top = 0.12 * (end - x) if layers <= COLUMNS else 0.0, axis.y(size)
        chart.box("bar", x + gap, top, end - x - 2 * gap, axis.bottom - top)
        chart.box("tip", x + gap, top - 1.2, end - x - 2 * gap, 2.4)
    marked = [(f"mark-{band}", band, at) for at, band in lost]
    marked += [(f"found-{severity}", "found", at) for severity, places in found.items() for at in places]
    for name, band, at in marked:
        chart.box(name, at, axis.bands[band] + 3, max(1, layers / COLUMNS), BAND - 6)
    return chart


def _history(count: int, found: Places, measurements: Sequence[Measurement]) -> Chart | None:
    """The gradient of every layer over the median of its step, in shades of log10."""
    chosen = evenly(measurements, STEPS)
    if len(chosen) < 2 or not found:
        return None
    drawn = evenly(found, COLUMNS)
    table = np.array([_relative_logs(one, [layer.name for _, layer in drawn]) for one in chosen])
    largest = float(np.abs(table[np.isfinite(table)]).max(initial=0))
    limit = min(max(largest, 0.5), 3.0)
    last = 2 * SHADES + 1
    shades = np.round(np.clip(np.nan_to_num(table, posinf=0, neginf=0) / limit, -1, 1) * SHADES) + SHADES + 1
    levels = np.select([np.isnan(table), table == math.inf, table == -math.inf], [0, last + 1, last + 2], shades)
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


def _slopes(count: int, found: Places) -> Chart | None:
    """The histogram of the mean relative slopes of the neurons of every activation."""
    if not found:
        return None
    drawn = evenly(found, COLUMNS)
    counts = np.array([layer.slopes for _, layer in drawn], dtype=np.float64).T
    levels = _shades((counts / np.maximum(counts.sum(axis=0), 1))[::-1], 0.5)
    levels[-1] += np.where(levels[-1] > 0, SHADES, 0)  # saturated neurons have another colour
    shut = {at: sum(slopes[: round(SHUT * BINS)]) / max(1, sum(slopes)) for at, x in found if (slopes := x.slopes)}
    worst = max(shut.items(), key=lambda pair: pair[1])
    ticks = [Tick(1 - v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1)]
    chart = Chart("slopes", count, 200, ticks, {"worst": worst, "drawn": len(drawn), "all": len(found)})
    chart.cells(levels, [at for at, _ in drawn], "q")
    return chart


def _outputs(ident: str, count: int, found: Places) -> Chart | None:
    """Histograms of the outputs of layers on one common axis, logarithmic if a few of them reach very far."""
    if not found:
        return None
    drawn = evenly(found, COLUMNS)
    ends = [(layer.low or 0.0, layer.high or 0.0) for _, layer in found]
    low, high = min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends))
    usual = float(np.median([max(-low, high) for low, high in ends]))
    axis = ValueAxis(low, high if low < high else 1.0, usual if 0 < 20 * usual < max(-low, high) else None)
    table = np.stack([_rows(layer, axis) for _, layer in drawn], axis=1)[::-1]
    chart = Chart(ident, count, 160, axis.ticks(), {"axis": axis, "drawn": len(drawn), "all": len(found)})
    chart.cells(_shades(table / table.max(axis=0), 0.7), [at for at, _ in drawn], "q")
    return chart


def _rows(layer: Layer, axis: ValueAxis) -> Floats:
    """Shares of the layer's outputs in `ROWS` rows from low to high; values are taken as even within a bin."""
    counts = np.array(layer.histogram, dtype=np.float64)
    at = axis.heights(np.linspace(layer.low or 0.0, layer.high or 0.0, len(counts) + 1)) * ROWS
    shares: Floats = np.eye(ROWS)[min(int(at[0]), ROWS - 1)]  # if all values are the same
    if at[-1] - at[0] > 1e-9:
        below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
        shares = np.diff(np.interp(np.arange(ROWS + 1), at, below, left=0.0, right=1.0))
    return shares


def _shades(table: Floats, exponent: float) -> Ints:
    """Shares as shades, small ones raised to be visible; 0 for none."""
    return np.ceil(SHADES * table**exponent - 1e-9).astype(np.int64)
