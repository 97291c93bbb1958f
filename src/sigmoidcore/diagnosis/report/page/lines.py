"""The figure of lines: the gradient through the time steps of recurrent layers."""

import html
import math
from collections.abc import Sequence

import numpy as np

from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Layer
from sigmoidcore.diagnosis.report import depth
from sigmoidcore.diagnosis.report.page import charts
from sigmoidcore.diagnosis.report.page.charts import BAND, TALL, Chart, Tick
from sigmoidcore.diagnosis.report.page.panel import Panel
from sigmoidcore.diagnosis.report.wording import counted, short, shown

LINES = 6
"""Recurrent layers that are drawn; the others have a row in the table only."""


def through_time(diagnosis: Judgement) -> Panel | None:
    """The gradient by time step of recurrent layers."""
    found = depth.through_time(diagnosis.measurement)
    drawn = [(place, layer, layer.steps or ()) for place, layer in found[:LINES]]
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
