"""The gradient through the time steps of recurrent layers, in a terminal: a line each, with bars as high as its log."""

import math
from collections.abc import Sequence

from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.report.columns import columns, left, printable, right, shortened, wrapped
from sigmoidcore.diagnosis.report.listing import GAP, scientific

LAYERS = 6
"""Layers that are shown: those whose gradient changes most."""
FEWEST_BARS, BARS = 6, 32
ZERO, NOT_FINITE = "_", "!"

_HEIGHTS = "▁▂▃▄▅▆▇█"


def through_steps(measurement: Measurement, width: int) -> list[str]:
    """Lines of at most `width` columns; none, if nothing recurs."""
    recurrent = [layer for layer in measurement.layers if layer.steps]
    if not recurrent:
        return []
    worst = sorted(range(len(recurrent)), key=lambda i: -_decades(recurrent[i].steps or ()))[:LAYERS]
    shown = [recurrent[i] for i in sorted(worst)]
    of = f", {len(shown)} of {len(recurrent):,} layers" if len(shown) < len(recurrent) else ""
    rows = [(layer.name or "(the model)", layer.steps or ()) for layer in shown]
    firsts, lasts = [scientific(steps[0]) for _, steps in rows], [scientific(steps[-1]) for _, steps in rows]
    bars = [_bars(steps, max(FEWEST_BARS, min(BARS, width - 48))) for _, steps in rows]
    widths = [max(map(columns, texts)) for texts in (firsts, bars, lasts)]
    room = width - sum(widths) - 4 * len(GAP)
    names = [shortened(printable(name), room) for name, _ in rows]
    longest = max(map(columns, names))
    lines = [
        GAP.join(["", left(name, longest), right(first, widths[0]), left(bar, widths[1]), right(last, widths[2])])
        for name, first, bar, last in zip(names, firsts, bars, lasts, strict=True)
    ]
    return [*wrapped(f"gradient through time, first step to last{of}:", width), *lines]


def _decades(steps: Sequence[float]) -> float:
    """How far the gradient goes up and down; inf, if it is 0 or not finite somewhere."""
    if not all(0 < step < math.inf for step in steps):
        return math.inf
    return math.log10(max(steps)) - math.log10(min(steps))


def _bars(steps: Sequence[float], most: int) -> str:
    """A character a step, or a few steps; the axis is the layer's own and one decade long at least."""
    count = min(most, len(steps))
    thinned = [steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)]
    logs = [math.log10(step) for step in thinned if 0 < step < math.inf]
    high = max(logs, default=0.0)
    low = min([high - 1, *logs])
    return "".join(_mark(step, low, high) for step in thinned)


def _mark(step: float, low: float, high: float) -> str:
    if not math.isfinite(step):
        return NOT_FINITE
    return _HEIGHTS[round(7 * (math.log10(step) - low) / (high - low))] if step > 0 else ZERO
