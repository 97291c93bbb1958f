"""The charts of a diagnosis as a matplotlib figure, the input at the left and the loss at the right.

Needs matplotlib, which the rest of the package does not. Nothing is shown, and no GUI is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sigmoidcore.diagnosis.measure.measurement import BINS, SHUT, Measurement
from sigmoidcore.diagnosis.report.axes import Tick
from sigmoidcore.diagnosis.report.charts import SHADES, Chart, panels
from sigmoidcore.diagnosis.wording import short

try:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    from sigmoidcore.plots.style import FAINT, INK, NOTHING, PALETTE, new_figure, style_axes
except ImportError as error:
    raise ImportError('figures of a diagnosis need matplotlib: pip install "sigmoid-core[plots]"') from error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARES = LinearSegmentedColormap.from_list("shares", ["white", PALETTE["sky"], PALETTE["blue"], "#00263D"])
_SHUT = LinearSegmentedColormap.from_list("shut", ["white", PALETTE["vermilion"], "#6A2E00"])
_COLOURS = {
    "bar": "#C2DBEB",
    "tip": PALETTE["blue"],
    "band": FAINT,
    "mark-nan": PALETTE["vermilion"],
    "mark-inf": PALETTE["purple"],
    "mark-0": INK,
    "mark-none": NOTHING,
    **{f"q{level}": _SHARES(level / SHADES) for level in range(1, SHADES + 1)},
    **{f"q{level + SHADES}": _SHUT(level / SHADES) for level in range(1, SHADES + 1)},
}
"""The colours of the classes of boxes."""


def overview(measurement: Measurement) -> Figure:
    """Gradient profile, saturation and outputs over depth, one below the other, as far as there is data."""
    found = {panel.ident: panel.charts[-1] for panel in panels(measurement)}
    charts = [(title, found[ident]) for ident, title in _titles(measurement).items() if ident in found]
    heights = [chart.height / 75 for _, chart in charts] or [3.0]
    figure = new_figure(9.0, sum(heights) + 0.4 * len(heights))
    rows = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0].tolist()
    count = max(1, len(measurement.layers))
    for axes, (title, chart) in zip(rows, charts, strict=False):
        _draw(axes, title, chart, count)
    rows[-1].set_xlim(0.5, count + 0.5)
    rows[-1].xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    rows[-1].set_xlabel(f"layer (1 is next to the input, {count:,} next to the loss)")
    return figure


def _titles(measurement: Measurement) -> dict[str, str]:
    profile = measurement.profile
    shut = [sum(x.slopes[: round(SHUT * BINS)]) / max(1, sum(x.slopes)) for x in measurement.layers if x.slopes]
    without_weights = any(layer.role != "weights" and any(layer.histogram or ()) for layer in measurement.layers)
    return {
        "profile": "Gradient profile" + (f", spread {short(profile.spread)}" if len(profile.names) > 1 else ""),
        "slopes": f"Neuron saturation: at most {100 * max(shut, default=0):.3g} % of a layer's neurons below {SHUT:g}",
        "outputs": f"Outputs of the {'activations' if without_weights else 'layers with weights'}",
    }


def _draw(axes: Axes, title: str, chart: Chart, layers: int) -> None:
    """The boxes of a chart over the numbers of the layers."""
    style_axes(axes, title, "", chart.vertical)
    for name, boxes in chart.boxes.items():
        left, top, width, height = np.array(boxes).reshape(-1, 4).T
        x = np.stack([left, left + width], axis=1) * layers / chart.width + 0.5
        y = np.stack([top, top + height], axis=1)
        corners = np.stack([x[:, [0, 1, 1, 0]], y[:, [0, 0, 1, 1]]], axis=2)
        axes.add_collection(PolyCollection(list(corners), facecolors=_COLOURS[name], linewidth=0, rasterized=True))
    axes.set_ylim(chart.height, 0)
    axes.set_yticks([tick.at * chart.height for tick in chart.ticks], [_label(tick) for tick in chart.ticks])
    axes.grid(visible=not chart.cells)


def _label(tick: Tick) -> str:
    base, _, exponent = tick.label.partition("^")
    return f"${base}^{{{exponent}}}$" if exponent else base
