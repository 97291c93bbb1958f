"""The style of all figures: colours, an empty figure, and the parts that panels share."""

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from unstuck.files import write_file

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

INK = "#222222"
FAINT = "#D9D9D9"


class Picture(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=90)
        return png.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, in inches, with room for its labels."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.03)
    return Picture(figsize=(width, height), layout=layout, facecolor="white")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, completely or not at all."""
    png = io.BytesIO()
    figure.savefig(png, dpi=150, format="png")
    return write_file(path, png.getvalue())


def style_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title at the left, labelled axes, no box, a faint grid behind the data."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(x_label, fontsize=10, color=INK)
    axes.set_ylabel(y_label, fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, **options: Any) -> None:
    """A legend below the panels."""
    figure.legend(loc="outside lower left", fontsize=9, frameon=False, labelcolor=INK, **options)
