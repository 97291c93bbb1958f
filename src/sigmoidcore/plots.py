"""Figures. Each function takes data and returns a `matplotlib.figure.Figure`; nothing is shown and no GUI is needed.

Needs matplotlib, which the rest of the package does not: import this module only where a figure is wanted.
Save with `figure.savefig("name.png", dpi=200)`; in a notebook the returned figure displays itself.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sigmoidcore.article import Fit, sigmoid_core

__all__ = ["PALETTE", "article_fit"]

# --- style -----------------------------------------------------------------------------------------------------------

PALETTE = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}
"""Okabe and Ito's eight colours, told apart with any colour vision (jfly.uni-koeln.de/color, 2008)."""

_INK = "#222222"
_FAINT = "#D9D9D9"


def _figure(width: float, height: float) -> Figure:
    """An empty white figure, in inches, that fits its labels by itself."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.03)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def _style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """What every panel has in common: title at the left, labelled axes, no box, a faint grid behind the data."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=10)
    axes.set_xlabel(x_label, fontsize=10, color=_INK)
    axes.set_ylabel(y_label, fontsize=10, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(True, color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


# --- figures ---------------------------------------------------------------------------------------------------------


def article_fit(fit: Fit) -> Figure:
    """The article's figure: the points with the curve before and after training, and the loss beside them.

    Example:
        >>> from sigmoidcore.article import POINTS_X, POINTS_Y, fit
        >>> figure = article_fit(fit(POINTS_X, POINTS_Y))
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['preactivation x', 'epoch']
    """
    figure = _figure(9.0, 3.8)
    curves, losses = figure.subplots(1, 2, width_ratios=(3, 2))

    margin = 0.1 * (np.ptp(fit.x) or 10.0)
    x = np.linspace(fit.x.min() - margin, fit.x.max() + margin, 401)
    before, after = sigmoid_core(x, fit.start_alpha), fit.predict(x)
    curves.plot(x, before, "--", color=PALETTE["vermilion"], linewidth=2, label=f"before: slope {fit.start_alpha:.3g}")
    curves.plot(
        x, after, color=PALETTE["blue"], linewidth=2, label=f"after: slope {fit.alpha:.3g}, shift {fit.shift:.3g}"
    )
    curves.plot(fit.x, fit.y, "o", color=PALETTE["black"], markersize=7, label="ground truth", zorder=3, clip_on=False)
    curves.set_xlim(x[0], x[-1])
    curves.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=_INK)
    _style(curves, "Ground truth and Sigmoid Core", "preactivation x", "output y")

    epochs = np.arange(fit.loss.size)
    losses.semilogy(epochs, fit.loss, color=PALETTE["blue"], linewidth=2)
    for epoch, colour, place in ((0, "vermilion", (9, -1)), (epochs[-1], "blue", (-10, -4))):
        losses.plot(epoch, fit.loss[epoch], "o", color=PALETTE[colour], markersize=7, zorder=3, clip_on=False)
        losses.annotate(
            f"{fit.loss[epoch]:.3g}",
            (epoch, fit.loss[epoch]),
            xytext=place,
            textcoords="offset points",
            ha="left" if epoch == 0 else "right",
            fontsize=9,
            color=_INK,
        )
    _style(losses, "Training", "epoch", "mean squared error")
    losses.grid(True, which="minor", axis="y", color=_FAINT, linewidth=0.3)
    return figure
