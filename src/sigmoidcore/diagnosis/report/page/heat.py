"""Figures of coloured cells: gradients over steps, saturation, outputs.

Each one takes a diagnosis and gives a panel, or None where there is nothing to draw.
"""

import math

import numpy as np

from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import BINS, SHUT, Measurement
from sigmoidcore.diagnosis.report import depth, thinning
from sigmoidcore.diagnosis.report.page import charts
from sigmoidcore.diagnosis.report.page.charts import Chart, Levels, Tick
from sigmoidcore.diagnosis.report.page.panel import COLUMNS, Panel, key, scale, thinned
from sigmoidcore.diagnosis.report.wording import counted, percent, short, shown

STEPS = 64
"""Rows of the heat map over steps."""
SHADES = 8
"""Shades of a share; of a difference, as many in both directions."""


def history(diagnosis: Judgement) -> Panel | None:
    """Gradient sizes by layer and step."""
    if len(diagnosis.history) < 2:
        return None
    measured = depth.history(diagnosis.history, STEPS)
    if not measured.at.size:
        return None
    layers, rows = len(diagnosis.measurement.layers), len(measured.steps)
    extreme = np.where(measured.nonfinite, math.inf, np.where(measured.vanished, -math.inf, measured.logs))
    table = thinning.farthest(measured.at, extreme, layers, COLUMNS // 2)
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
    legend = scale("d", range(1, 2 * SHADES + 2), f"{times} times smaller", f"{times} times larger")
    legend += key(f"d{2 * SHADES + 3}", "0") if measured.vanished.any() else ""
    legend += key(f"d{2 * SHADES + 2}", "inf or nan") if measured.nonfinite.any() else ""
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
        legend + thinned(diagnosis.measurement, 2),
    )


def slopes(diagnosis: Judgement) -> Panel | None:
    """The neurons' mean relative slopes in every activation."""
    measurement = diagnosis.measurement
    found = depth.slopes(measurement)
    if not found.at.size:
        return None
    table = thinning.averaged(found.at, found.shares, len(measurement.layers), COLUMNS)[::-1]
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
    legend = scale("q", range(1, SHADES + 1), "few neurons", "all")
    legend += scale("q", range(SHADES + 1, 2 * SHADES + 1), f"below {SHUT:g}: few", "all")
    return Panel("slopes", "Saturation", "Neuron saturation", text, str(chart), legend + thinned(measurement))


def _shades(table: depth.Floats, exponent: float) -> Levels:
    """Shares as shades, small ones raised so that they are seen; 0 for none."""
    return np.ceil(SHADES * np.nan_to_num(table) ** exponent - 1e-9).astype(np.int64)


def outputs(diagnosis: Judgement) -> Panel | None:
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
    legend = scale("q", range(1, SHADES + 1), "few values", "most") + thinned(measurement)
    return Panel("outputs", "Outputs", "Outputs over depth", text, "".join(drawn), legend)


def _outputs(found: depth.Cells, ident: str, title: str, measurement: Measurement) -> Chart:
    layers, height = len(measurement.layers), 160
    table = thinning.averaged(found.at, found.shares, layers, COLUMNS)[::-1]
    fullest = np.nan_to_num(table).max(axis=0)
    picture = charts.cells(_shades(table / np.where(fullest > 0, fullest, 1), 0.7), height, "q")
    ticks = [Tick(1 - at, label) for at, label in depth.value_ticks(found.axis)]
    ends = f"from {short(found.axis.low)} to {short(found.axis.high)}"
    summary = f"Outputs of {counted(found.at.size, 'layer')} ({title.lower()}), {ends}."
    what = "output" if found.axis.knee is None else f"output, logarithmic beyond {short(found.axis.knee)}"
    return Chart(
        ident, summary, table.shape[1], height, picture, what, ticks, charts.numbered(layers), shows=("rms", "spread")
    )
