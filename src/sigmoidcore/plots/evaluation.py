"""Figures of an evaluation: the confusion matrix, or predictions against true values."""

from collections.abc import Sequence
from unicodedata import east_asian_width

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sigmoidcore.plots.style import INK, PALETTE, colour_bar, new_figure, style_axes

SHARES = LinearSegmentedColormap.from_list("shares", ["white", PALETTE["blue"]])
"""One hue, light to dark: readable with any colour vision, and in grey."""
WITH_NUMBERS, WITH_NAMES, LONGEST = 20, 60, 18
"""Most classes with numbers in the cells, and with names at the axes; most characters of a name."""


def confusion_matrix(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The confusion matrix: a row for each true class; the colour is the share of that class."""
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [_short(name) for name in names]
    longest = max(sum(1 + (east_asian_width(character) in "WF") for character in name) for name in names)
    size = min(max(0.52 * classes, 2.4), 9.0)
    figure = new_figure(size + 2.2 + 0.07 * longest, size + 1.3 + (0.07 * longest if longest > 3 else 0))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
    style_axes(axes, title, "predicted class", "true class")
    axes.grid(False)
    axes.spines[:].set_visible(True)
    if classes <= WITH_NAMES:
        axes.set_xticks(range(classes), names, rotation=90 if longest > 3 else 0)
        axes.set_yticks(range(classes), names)
    if classes <= WITH_NUMBERS:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=color)
    colour_bar(figure, image, axes, "share of the true class", shrink=0.8)
    return figure


def predicted_against_true(
    true: np.ndarray, predicted: np.ndarray, names: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Predictions against true values, a panel for each of the first four targets."""
    panels = min(true.shape[1], 4)
    figure = new_figure(4.2 * panels + 0.4, 4.2)
    for column, axes in enumerate(figure.subplots(1, panels, squeeze=False)[0]):
        x, y, name = true[:, column], predicted[:, column], _short(names[column])
        style_axes(axes, titles[column], f"{name}, true", f"{name}, predicted")
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--")
        alpha = float(np.clip(60 / np.sqrt(len(x)), 0.08, 0.8)) / 2
        axes.plot(x, y, linestyle="", marker="o", markersize=4, alpha=alpha, color=PALETTE["blue"], mew=0)
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def _short(name: str) -> str:
    """A name, shortened, in which a dollar is not mathematics."""
    return (name if len(name) <= LONGEST else name[: LONGEST - 1] + "…").replace("$", r"\$")
