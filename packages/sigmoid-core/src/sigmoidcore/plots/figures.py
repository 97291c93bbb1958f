"""Figures of profiles, trainings and the article: from data to a Matplotlib figure.

Save a figure with `figure.savefig("name.png", dpi=200)`; a notebook displays it. Nothing needs a GUI.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sigmoidcore.article import Fit, sigmoid_core
from sigmoidcore.plots.style import FAINT, INK, PALETTE, legend_below, new_figure, style_axes
from unstuck.observation.profile import Profile

# Colour, line and marker change together: curves can be told apart in black and white too. Profiles come in pairs
# mostly, before and after training: one hue, dashed and solid.
_PAIRS = [
    (PALETTE["sky"], "--", "^"), (PALETTE["blue"], "-", "s"), (PALETTE["orange"], "--", "v"),
    (PALETTE["vermilion"], "-", "o"), (PALETTE["purple"], "--", "D"), (PALETTE["green"], "-", "P"),
]  # fmt: skip
_ROW = 0.045  # height, as a share of the axes, of a row of marks for values without a place on a log axis
_LABEL: dict[str, Any] = {"fontsize": 9, "color": INK}


def article_fit(fit: Fit) -> Figure:
    """The article's figure: the points with the curve before and after training, and the loss beside them."""
    figure = new_figure(9.0, 3.8)
    curves, losses = figure.subplots(1, 2, width_ratios=(3, 2))
    margin = 0.1 * (np.ptp(fit.x) or 10.0)
    x = np.linspace(fit.x.min() - margin, fit.x.max() + margin, 401)
    after = f"after: slope {fit.alpha:.3g}, shift {fit.shift:.3g}"
    before = f"before: slope {fit.start_alpha:.3g}"
    curves.plot(x, sigmoid_core(x, fit.start_alpha), "--", color=PALETTE["vermilion"], linewidth=2, label=before)
    curves.plot(x, fit.predict(x), color=PALETTE["blue"], linewidth=2, label=after)
    curves.plot(fit.x, fit.y, "o", color=PALETTE["black"], markersize=7, label="ground truth", zorder=3, clip_on=False)
    curves.set_xlim(x[0], x[-1])
    curves.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=INK)
    style_axes(curves, "Ground truth and Sigmoid Core", "preactivation x", "output y")

    losses.semilogy(np.arange(fit.loss.size), fit.loss, color=PALETTE["blue"], linewidth=2)
    ends = ((0, "vermilion", (9, -1), "left"), (fit.loss.size - 1, "blue", (-10, -4), "right"))
    for epoch, colour, place, side in ends:
        loss = float(fit.loss[epoch])
        losses.plot(epoch, loss, "o", color=PALETTE[colour], markersize=7, zorder=3, clip_on=False)
        losses.annotate(f"{loss:.3g}", (epoch, loss), place, textcoords="offset points", ha=side, **_LABEL)
    style_axes(losses, "Training", "epoch", "mean squared error")
    losses.grid(True, which="minor", axis="y", color=FAINT, linewidth=0.3)
    return figure


def gradient_profiles(profiles: Mapping[str, Profile]) -> Figure:
    """Gradient size by layer, on a log axis: the input at the left, the loss at the right.

    Layers whose gradient is 0 or not finite are marked below and above the axis, with their number in the legend, which
    shows the names of the profiles; ValueError without any.
    """
    if not profiles:
        raise ValueError("there are no profiles to draw: give at least one by its name")
    curves = {}
    for name, profile in profiles.items():
        sizes = profile.sizes.numpy()
        facts = [f"spread {profile.spread:.4g}"]
        for marked, word in ((sizes == 0, "vanished"), (~np.isfinite(sizes), "not finite")):
            if marked.any():
                facts.append(f"{word} in {int(marked.sum())} of {len(sizes)} layers")
        curves[f"{name}: {', '.join(facts)}"] = (np.arange(1, len(sizes) + 1), sizes)
    figure = new_figure(9.0, 4.6)
    axes = figure.subplots()
    _draw_profiles(axes, curves)
    longest = max(len(sizes) for _, sizes in curves.values())
    axes.set_xlim(1 - 0.02 * longest, 1.02 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    x_label = f"layer (1 is next to the input, {longest} next to the loss)"
    style_axes(axes, "Gradient size in every layer", x_label, "gradient size")
    legend_below(figure)
    return figure


def solutions(pictures: Mapping[str, NDArray[Any]], errors: Mapping[str, Sequence[float]], steps: int) -> Figure:
    """Pictures [rows, columns] in the colours of the first one, and errors on a log axis, so many steps apart."""
    figure = new_figure(3.0 * (len(pictures) + 1), 3.2)
    *frames, curves = figure.subplots(1, len(pictures) + 1)
    first = next(iter(pictures.values()))
    for axes, (name, values) in zip(frames, pictures.items(), strict=True):
        axes.imshow(values, origin="lower", vmin=first.min(), vmax=first.max(), cmap="viridis")
        axes.set_title(f"{name}, error {errors[name][-1]:.2g}" if name in errors else name, loc="left", color=INK)
        axes.set(xticks=(), yticks=())
    for (name, found), (colour, line, _marker) in zip(errors.items(), _PAIRS[max(0, 4 - len(errors)) :], strict=False):
        curves.semilogy(steps * np.arange(1, len(found) + 1), found, line, color=colour, linewidth=2, label=name)
    style_axes(curves, "Error", "step", "")
    curves.legend(fontsize=9, frameon=False, labelcolor=INK)
    return figure


def _draw_profiles(axes: Axes, curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Gradient sizes by layer, on a log axis of three decades or more; 0 is marked below it, not finite above it."""
    sizes = np.concatenate([values for _, values in curves.values()])
    known = sizes[np.isfinite(sizes) & (sizes > 0)]
    least, most = (math.log10(known.min()), math.log10(known.max())) if known.size else (-1.0, 0.0)
    margin = max((3 - (most - least)) / 2, 0.05 * (most - least))
    least, most = least - margin, most + margin
    below, above = bool((sizes == 0).any()), not np.isfinite(sizes).all()
    row = _ROW * (most - least) / (1 - _ROW * (below + above))
    axes.set_yscale("log")
    axes.set_ylim(10 ** (least - row * below), 10 ** (most + row * above))
    for (label, (layers, values)), (colour, line, marker) in zip(curves.items(), itertools.cycle(_PAIRS)):
        drawable = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        marker, order = marker if len(values) <= 30 else "", 3 if line == "--" else 2
        axes.plot(layers, drawable, line, color=colour, linewidth=2, marker=marker, ms=5, label=label, zorder=order)
        for marked, height in ((values == 0, _ROW / 2), (~np.isfinite(values), 1 - _ROW / 2)):
            if marked.any():
                at = np.full(int(marked.sum()), height)
                axes.plot(layers[marked], at, "x", color=colour, markersize=4, transform=axes.get_xaxis_transform())
    low, high = 10 ** (least + row / 2 * below), 10 ** (most - row / 2 * above)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.minorticks_off()
    for present, middle, text in ((below, _ROW / 2, "0"), (above, 1 - _ROW / 2, "not finite")):
        if present:
            band = Rectangle((0, middle - _ROW / 2), 1, _ROW, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
            axes.add_patch(band).set_transform(axes.transAxes)
            axes.text(-0.008, middle, text, transform=axes.transAxes, ha="right", va="center", **_LABEL)
