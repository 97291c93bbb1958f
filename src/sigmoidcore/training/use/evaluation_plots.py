"""Figures of an evaluation: what was taken for what, or what was predicted against what was true. Needs matplotlib."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sigmoidcore.plots.style import INK, PALETTE, new_figure, style_axes
from sigmoidcore.training.use.evaluate import Evaluation, interval, shown

SHARES = LinearSegmentedColormap.from_list("shares", ["white", PALETTE["blue"]])
"""One hue, light to dark: it reads the same with any colour vision, and in grey."""
WRITTEN = 20
"""Most classes for which the numbers stand in the cells."""
NAMED = 60
"""Most classes that are named at the axes."""
LONGEST = 18
"""Characters of a class's name."""


def confusion(evaluation: Evaluation) -> Figure:
    """The confusion matrix: a row is a true class, its colours are the shares that were taken for each class.

    Args:
        evaluation: of classes.
    """
    table = np.array(evaluation.confusion)
    classes = len(table)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    names = [_short(c.name) for c in evaluation.classes]
    longest = max(len(name) for name in names)
    size = min(max(0.52 * classes, 2.4), 9.0)
    figure = new_figure(size + 2.2 + 0.07 * longest, size + 1.3 + (0.07 * longest if longest > 3 else 0))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
    accuracy = evaluation.scores[0]
    style_axes(axes, f"accuracy {shown(accuracy)} {interval(accuracy)}", "predicted class", "true class")
    axes.grid(False)
    axes.spines[:].set_visible(True)
    if classes <= NAMED:
        axes.set_xticks(range(classes), names, rotation=90 if longest > 3 else 0)
        axes.set_yticks(range(classes), names)
    if classes <= WRITTEN:
        for row in range(classes):
            for column in range(classes):
                if table[row, column]:
                    dark = shares[row, column] > 0.5
                    axes.text(
                        column, row, f"{table[row, column]:,}", ha="center", va="center", fontsize=8,
                        color="white" if dark else INK,
                    )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class", fontsize=10, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def against(evaluation: Evaluation) -> Figure:
    """What was predicted against what was true, a panel for each target (the first four).

    Args:
        evaluation: of numbers.
    """
    assert evaluation.points is not None
    true, predicted = evaluation.points
    panels = min(true.shape[1], 4)
    figure = new_figure(4.2 * panels + 0.4, 4.2)
    for place, axes in enumerate(figure.subplots(1, panels, squeeze=False)[0]):
        x, y = true[:, place], predicted[:, place]
        name = evaluation.targets[place]
        r2 = evaluation.scores[3 * place + 2]
        style_axes(axes, f"R2 {shown(r2)} {interval(r2)}", f"{_short(name)}, true", f"{_short(name)}, predicted")
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--", label="as it is")
        alpha = float(np.clip(60 / np.sqrt(len(x)), 0.08, 0.8)) / 2
        axes.plot(x, y, linestyle="", marker="o", markersize=4, alpha=alpha, color=PALETTE["blue"], mew=0)
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
