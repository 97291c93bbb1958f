"""Figures of a comparison: a metric of several methods against seconds, rates or depths."""

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from sigmoidcore.plots.style import PALETTE, legend_below, new_figure, style_axes

# Colour, line and marker change together: methods can be told apart in black and white, too.
_COLOURS = [PALETTE[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky", "black")]
_STYLES = list(zip(_COLOURS * 12, itertools.cycle(("-", "--", ":", "-.")), itertools.cycle("osDP^v<>X")))


def method_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], x_label: str, y_label: str
) -> Figure:
    """Points (x, metric) by method in a panel for each title, over a log axis."""
    figure = new_figure(4.6 * len(panels) + 1, 4.4)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, series) in zip(row, panels.items(), strict=True):
        for (name, points), (colour, line, marker) in zip(series.items(), _STYLES, strict=False):
            x, y = [point[0] for point in points], [point[1] for point in points]
            axes.plot(x, y, line, color=colour, marker=marker, markersize=5, linewidth=1.8, label=name)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] == "3" else "")
        axes.tick_params(which="minor", labelsize=9)
        style_axes(axes, title, x_label, y_label if axes is row[0] else "")
    legend_below(figure, handles=row[0].get_lines(), ncols=3)
    return figure
