"""A diagnosis as figures. Each function returns a `matplotlib.figure.Figure`; nothing is shown and no GUI is needed.

Needs matplotlib, which the rest of the package does not: import this module only where a figure is wanted. The input is
at the left and the loss at the right, in every figure and at the same places.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sigmoidcore.diagnosis.measure.measurement import BINS, SHUT, Measurement
from sigmoidcore.diagnosis.report import depth, thinning
from sigmoidcore.diagnosis.report.wording import short

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    from sigmoidcore.plots.style import FAINT, INK, NOTHING, PALETTE, ROW, SMALL_AND_LARGE, new_figure, style_axes
except ImportError as error:
    raise ImportError(
        'figures of a diagnosis need matplotlib, which is missing: pip install "sigmoid-core[plots]"'
    ) from error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sigmoidcore.diagnosis.judgement import Judgement

__all__ = ["activations", "history", "overview", "profile", "saturation"]

COLUMNS = 800
STEPS = 200

_SHARES = LinearSegmentedColormap.from_list("shares", ["white", PALETTE["sky"], PALETTE["blue"], "#00263D"])
_SHUT = LinearSegmentedColormap.from_list("shut", ["white", PALETTE["vermilion"], "#6A2E00"])
_ODD = {"nan": PALETTE["vermilion"], "inf": PALETTE["purple"], "0": INK, "none": NOTHING}


def overview(diagnosis: Judgement) -> Figure:
    """Profile, saturation and outputs over depth, one below the other; those that there is something to draw for.

    Example:
        >>> from sigmoidcore.diagnosis.judgement import Judgement
        >>> from sigmoidcore.diagnosis.measure.measurement import Layer
        >>> layers = tuple(Layer(f"{i}", f"{i}", "Linear", "weights", gradient=0.1**i) for i in range(3))
        >>> figure = overview(Judgement(Measurement(layers, (), samples=8), ()))
        >>> figure.axes[0].get_title(loc="left")
        'Gradient profile, spread 100'
    """
    measurement = diagnosis.measurement
    panels = [(_profile, 3.0)]
    if depth.slopes(measurement).at.size:
        panels.append((_saturation, 2.2))
    if depth.outputs(measurement, False).at.size:
        panels.append((_outputs_of_activations, 2.2))
    elif depth.outputs(measurement, True).at.size:
        panels.append((_outputs_of_weights, 2.2))
    heights = [height for _, height in panels]
    figure = new_figure(9.0, sum(heights) + 0.4 * len(heights))
    every = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
    for (draw, _), axes in zip(panels, every, strict=True):
        draw(axes, measurement)
        axes.tick_params(labelbottom=axes is every[-1])
        axes.set_xlabel(axes.get_xlabel() if axes is every[-1] else "")
    return figure


def profile(measurement: Measurement) -> Figure:
    """Gradient size of every layer with weights, on a log axis.

    What a log axis has no place for has rows of its own: nan and inf above it, 0 and no gradient at all below it.

    Example:
        >>> from sigmoidcore.diagnosis.measure.measurement import Layer
        >>> figure = profile(Measurement((Layer("0", "0", "Linear", "weights", gradient=0.5),), (), samples=8))
        >>> figure.axes[0].get_yscale()
        'log'
    """
    figure = new_figure(9.0, 3.8)
    _profile(figure.subplots(), measurement)
    return figure


def saturation(measurement: Measurement) -> Figure:
    """How the neurons' mean relative slopes are distributed in every activation; saturated ones in their own colour.

    Raises:
        ValueError: there are no activations.
    """
    figure = new_figure(9.0, 3.2)
    _saturation(figure.subplots(), measurement)
    return figure


def activations(measurement: Measurement) -> Figure:
    """How the outputs are distributed over depth: of the layers with weights, and of the activations.

    Raises:
        ValueError: there are no histograms.
    """
    drawn = [
        draw
        for draw, weighted in ((_outputs_of_weights, True), (_outputs_of_activations, False))
        if depth.outputs(measurement, weighted).at.size
    ]
    if not drawn:
        raise ValueError("no layer has a histogram of its outputs: there is nothing to draw")
    figure = new_figure(9.0, 2.9 * len(drawn))
    for draw, axes in zip(drawn, figure.subplots(len(drawn), 1, squeeze=False)[:, 0], strict=True):
        draw(axes, measurement)
    return figure


def history(diagnosis: Judgement) -> Figure:
    """Gradient size by layer and step, relative to the median of each step: white is level, colour is not.

    A row lasts from the step at which it was measured until the next one that was.

    Raises:
        ValueError: the diagnosis has less than two measurements.
    """
    if len(diagnosis.history) < 2:
        raise ValueError("a figure over steps needs two measurements at least: make them with a Monitor")
    measured = depth.history(diagnosis.history, STEPS)
    layers = len(diagnosis.measurement.layers)
    extreme = np.where(measured.nonfinite, math.inf, np.where(measured.vanished, -math.inf, measured.logs))
    table = thinning.farthest(measured.at, extreme, layers, COLUMNS)
    farthest = float(np.abs(table[np.isfinite(table)]).max(initial=0))
    limit = min(max(farthest, 0.5), 3.0)

    figure = new_figure(9.0, 4.2)
    axes = figure.subplots()
    steps = measured.steps.astype(np.float64)
    edges = np.append(steps, steps[-1] + max(1.0, np.diff(steps).max(initial=1.0)))
    columns = _edges(layers, table.shape[1])
    shown = np.ma.masked_invalid(table)
    mesh = axes.pcolormesh(columns, edges, shown, cmap=SMALL_AND_LARGE, vmin=-limit, vmax=limit, rasterized=True)
    keys = []
    for here, colour, label in (
        (table == -math.inf, INK, "0"),
        (table == math.inf, PALETTE["purple"], "inf or nan"),
    ):
        if here.any():
            marks = np.ma.masked_where(~here, np.ones(table.shape))
            axes.pcolormesh(columns, edges, marks, cmap=ListedColormap([colour]), rasterized=True)
            keys.append(Patch(facecolor=colour, label=label))
    style_axes(axes, "Gradient size by layer and step", _depth_label(layers), "step")
    axes.grid(False)
    _depth_axis(axes, layers)
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    bar = figure.colorbar(mesh, ax=axes, extend="both" if farthest > limit else "neither", pad=0.02)
    bar.set_label("gradient size over the median, log10", fontsize=10, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9)
    if keys:
        figure.legend(handles=keys, loc="outside lower left", ncols=2, fontsize=9, frameon=False, labelcolor=INK)
    return figure


# --- panels ----------------------------------------------------------------------------------------------------------


def _profile(axes: Axes, measurement: Measurement) -> None:
    sizes, layers = depth.gradients(measurement), len(measurement.layers)
    known = sizes.at.size > 1
    title = f"Gradient profile, spread {short(measurement.profile.spread)}" if known else "Gradient profile"
    style_axes(axes, title, _depth_label(layers), "gradient size")
    _depth_axis(axes, layers)
    axes.set_yscale("log")
    over = [name for name in ("nan", "inf") if name in sizes.marked]
    under = [name for name in ("0", "none") if name in sizes.marked]
    least, most = sizes.decades
    decade = (most - least) / (1 - ROW * (len(over) + len(under)))
    low, high = least - decade * ROW * len(under), most + decade * ROW * len(over)
    axes.set_ylim(10**low, 10**high)

    floor = 10**least
    if layers <= COLUMNS:
        drawable, width = sizes.drawable, 0.8 * thinning.pitch(sizes.at)
        axes.bar(sizes.at[drawable] + 1, sizes.values[drawable] - floor, width, floor, color=PALETTE["blue"], zorder=2)
    else:
        smallest, largest = (np.append(v, v[-1]) for v in thinning.envelope(sizes, layers, COLUMNS))
        edges = _edges(layers, len(largest) - 1)
        axes.fill_between(edges, floor, largest, step="post", color=PALETTE["sky"], alpha=0.4, linewidth=0, zorder=2)
        axes.fill_between(edges, smallest, largest, step="post", color=PALETTE["blue"], linewidth=1.2, zorder=3)

    axes.yaxis.set_minor_locator(NullLocator())
    room = decade * ROW / 2
    ticks = [
        t for t in axes.get_yticks() if 10 ** (least + room * bool(under)) <= t <= 10 ** (most - room * bool(over))
    ]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    places = [1 - ROW * (i + 0.5) for i in range(len(over))] + [ROW * (len(under) - i - 0.5) for i in range(len(under))]
    for name, place in zip([*over, *under], places, strict=True):
        band = Rectangle((0, place - ROW / 2), 1, ROW, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
        band.set_transform(axes.transAxes)
        axes.add_patch(band)
        axes.text(-0.008, place, name, transform=axes.transAxes, ha="right", va="center", fontsize=9, color=INK)
        marks = sizes.marked[name]
        axes.plot(marks + 1, np.full(len(marks), place), "s" if layers <= 100 else "|", color=_ODD[name], markersize=5,
                  transform=axes.get_xaxis_transform(), zorder=3)  # fmt: skip


def _saturation(axes: Axes, measurement: Measurement) -> None:
    found, layers = depth.slopes(measurement), len(measurement.layers)
    if not found.at.size:
        raise ValueError("no activation was seen: there are no relative slopes to draw")
    shares = np.sqrt(thinning.averaged(found.at, found.shares, layers, COLUMNS))
    columns, rows = _edges(layers, shares.shape[1]), np.linspace(0, 1, BINS + 1)
    shut = round(SHUT * BINS)
    for first, end, colours in ((shut, BINS, _SHARES), (0, shut, _SHUT)):
        part = np.ma.masked_invalid(shares[first:end])
        axes.pcolormesh(columns, rows[first : end + 1], part, cmap=colours, vmin=0, vmax=1, rasterized=True)
    worst = int(np.argmax(found.shares[:shut].sum(axis=0)))
    most = float(found.shares[:shut, worst].sum())
    title = f"Neuron saturation: at most {100 * most:.3g} % of a layer's neurons below {SHUT:g}"
    style_axes(axes, title, _depth_label(layers), "relative slope")
    axes.grid(False)
    axes.set_ylim(0, 1)
    _depth_axis(axes, layers)


def _outputs_of_weights(axes: Axes, measurement: Measurement) -> None:
    _outputs(axes, measurement, True, "Outputs of the layers with weights")


def _outputs_of_activations(axes: Axes, measurement: Measurement) -> None:
    _outputs(axes, measurement, False, "Outputs of the activations")


def _outputs(axes: Axes, measurement: Measurement, weighted: bool, title: str) -> None:
    found, layers = depth.outputs(measurement, weighted), len(measurement.layers)
    shares = thinning.averaged(found.at, found.shares, layers, COLUMNS)
    shares = shares / np.maximum(np.nan_to_num(shares).max(axis=0), 1e-12)
    columns = _edges(layers, shares.shape[1])
    axes.pcolormesh(
        columns,
        np.linspace(0, 1, len(shares) + 1),
        np.ma.masked_invalid(shares**0.7),
        cmap=_SHARES,
        vmin=0,
        vmax=1,
        rasterized=True,
    )
    style_axes(axes, title, _depth_label(layers), "output")
    axes.grid(False)
    ticks = depth.value_ticks(found.axis)
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    _depth_axis(axes, layers)


def _edges(layers: int, columns: int) -> depth.Floats:
    """Edges of the columns on an axis that has layer n at n."""
    return np.linspace(0.5, layers + 0.5, columns + 1)


def _depth_label(layers: int) -> str:
    return f"layer (1 is next to the input, {layers:,} next to the loss)"


def _depth_axis(axes: Axes, layers: int) -> None:
    axes.set_xlim(0.5, max(1, layers) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
