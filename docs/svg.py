"""Figures for pages of any colour, the same each time they are drawn."""

import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from sigmoidcore.plots.style import FAINT, INK

GREY, FAINT_GREY = "#808080", "rgba(128, 128, 128, 0.3)"
"""Readable on white and on black."""


def svg(figure: Figure) -> str:
    """The figure as SVG, transparent, with grey axes and texts."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "sigmoid-core", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace(INK.lower(), GREY).replace(FAINT.lower(), FAINT_GREY)
    return re.sub(r" +$", "", text, flags=re.MULTILINE)
