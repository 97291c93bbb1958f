"""The measurement of a diagnosis as matplotlib figures, the input at the left and the loss at the right.

Needs matplotlib, which the rest of the package does not. Nothing is shown, and no GUI is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sigmoidcore.diagnosis.measure.measurement import BINS, SHUT, Measurement
from sigmoidcore.diagnosis.report import depth
from sigmoidcore.diagnosis.report.formatting import short

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    from sigmoidcore.plots.figures import draw_profiles
    from sigmoidcore.plots.style import PALETTE, new_figure, style_axes
except ImportError as error:
    raise ImportError('figures of a diagnosis need matplotlib: pip install "sigmoid-core[plots]"') from error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 800

_SHARES = LinearSegmentedColormap.from_list("shares", ["white", PALETTE["sky"], PALETTE["blue"], "#00263D"])
_SHUT = LinearSegmentedColormap.from_list("shut", ["white", PALETTE["vermilion"], "#6A2E00"])


def overview(measurement: Measurement) -> Figure:
    """Gradient profile, saturation and outputs over depth, one below the other, as far as there is data.

    Example:
        >>> from sigmoidcore.diagnosis.measure.measurement import Layer
        >>> layers = tuple(Layer(f"{i}", f"{i}", "Linear", "weights", gradient=0.1**i) for i in range(3))
        >>> overview(Measurement(layers, (), samples=8)).axes[0].get_title(loc="left")
        'Gradient profile, spread 100'
    """
    slopes = depth.slopes(measurement)
    outputs, kind = depth.outputs(measurement, False), "activations"
    if not outputs.at.size:
        outputs, kind = depth.outputs(measurement, True), "layers with weights"
    heights = [3.0, *([2.2] if slopes.at.size else []), *([2.2] if outputs.at.size else [])]
    figure = new_figure(9.0, sum(heights) + 0.4 * len(heights))
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0].tolist()
    _profile(panels[0], measurement)
    if slopes.at.size:
        _saturation(panels[1], slopes, len(measurement.layers))
    if outputs.at.size:
        _outputs(panels[-1], outputs, kind, len(measurement.layers))
    for axes in panels:
        axes.tick_params(labelbottom=axes is panels[-1])
    count = len(measurement.layers)
    panels[-1].set_xlim(0.5, max(1, count) + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    panels[-1].set_xlabel(f"layer (1 is next to the input, {count:,} next to the loss)")
    return figure


def _profile(axes: Axes, measurement: Measurement) -> None:
    sizes = depth.gradients(measurement)
    spread = f", spread {short(measurement.profile.spread)}" if sizes.at.size > 1 else ""
    style_axes(axes, f"Gradient profile{spread}", "", "gradient size")
    draw_profiles(axes, {"": (sizes.at + 1.0, sizes.values)})


def _saturation(axes: Axes, slopes: depth.Cells, layers: int) -> None:
    shut = round(SHUT * BINS)
    most = 100 * float(slopes.shares[:shut].sum(axis=0).max())
    title = f"Neuron saturation: at most {most:.3g} % of a layer's neurons below {SHUT:g}"
    style_axes(axes, title, "", "relative slope")
    shares = np.sqrt(depth.averaged(slopes.at, slopes.shares, layers, COLUMNS))
    rows = np.linspace(0, 1, BINS + 1)
    _cells(axes, shares[shut:], rows[shut:], _SHARES, layers)
    _cells(axes, shares[:shut], rows[: shut + 1], _SHUT, layers)
    axes.set_ylim(0, 1)


def _outputs(axes: Axes, outputs: depth.Cells, kind: str, layers: int) -> None:
    style_axes(axes, f"Outputs of the {kind}", "", "output")
    shares = depth.averaged(outputs.at, outputs.shares, layers, COLUMNS)
    shares = shares / np.maximum(np.nan_to_num(shares).max(axis=0), 1e-12)
    _cells(axes, shares**0.7, np.linspace(0, 1, len(shares) + 1), _SHARES, layers)
    ticks = outputs.axis.ticks()
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks])


def _cells(axes: Axes, shares: depth.Floats, rows: depth.Floats, colours: Colormap, layers: int) -> None:
    columns, table = _edges(layers, shares.shape[1]), np.ma.masked_invalid(shares)
    axes.pcolormesh(columns, rows, table, cmap=colours, vmin=0, vmax=1, rasterized=True)
    axes.grid(False)


def _edges(layers: int, columns: int) -> depth.Floats:
    """Edges of the columns; the middle of layer n is n."""
    return np.linspace(0.5, layers + 0.5, columns + 1)
