"""The style of all figures: colours, an empty figure, and the parts that panels share."""

import io
import warnings
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from unstuck.files import write_file

EAST_ASIAN = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Microsoft YaHei", "PingFang SC", "Heiti SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Malgun Gothic", "Yu Gothic", "Droid Sans Fallback"),
)
"""Usual fonts with Chinese, Japanese or Korean characters."""
_NO_FONT = (
    "no installed font has Chinese, Japanese or Korean characters, so figures show boxes for them: install one, such "
    "as Noto Sans CJK (Debian's package fonts-noto-cjk)"
)
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
NOTHING = "#9A9A9A"
SMALL_AND_LARGE = LinearSegmentedColormap.from_list("small_and_large", [PALETTE["blue"], "white", PALETTE["vermilion"]])


class Picture(Figure):
    """A figure that a notebook shows without pyplot, with an East Asian font for texts that need one."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw; Matplotlib itself takes each character from the first font of a text that has it."""
        for axes in self.axes:
            axes.get_xticklabels(), axes.get_yticklabels()  # makes the labels
        texts = [text for text in self.findobj(Text) if max(text.get_text(), default="") > "\u2e80"]
        families = [name for name in EAST_ASIAN if name in {font.name for font in fontManager.ttflist}]
        for text in texts:
            text.set(fontfamily=[*rcParams["font.family"], *families], fontweight="normal")  # few have a bold face
        with warnings.catch_warnings():
            if texts and not families:
                warnings.warn(_NO_FONT, stacklevel=2)
                warnings.filterwarnings("ignore", r"Glyph \d+")
            super().draw(renderer)

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


def colour_bar(figure: Figure, image: ScalarMappable, axes: Axes | list[Axes], label: str, **options: Any) -> None:
    """The scale of an image's colours."""
    bar = figure.colorbar(image, ax=axes, **options)
    bar.set_label(label, fontsize=10, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_visible(False)
