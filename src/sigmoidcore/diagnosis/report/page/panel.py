"""A section of the page, and what the legends of its figures are made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sigmoidcore.diagnosis.measure.measurement import Measurement

COLUMNS = 480
"""Columns of a figure at most; those of the heat map over steps, which has many rows, are half as many."""


@dataclass(frozen=True)
class Panel:
    """A section of the page: its name among the contents, what it shows and how to read it; all but `title` is HTML."""

    ident: str
    name: str
    title: str
    text: str
    body: str
    legend: str = ""


def scale(kind: str, levels: Sequence[int], first: str, last: str) -> str:
    """The colours of cells, from the first level to the last."""
    swatches = "".join(f'<path class="{kind}{level}" d="M{i} 0h1v1h-1z"/>' for i, level in enumerate(levels))
    return (
        f'<span class="key">{first}<svg class="scale cells" viewBox="0 0 {len(levels)} 1" preserveAspectRatio="none"'
        f' aria-hidden="true">{swatches}</svg>{last}</span>'
    )


def key(name: str, text: str) -> str:
    """A colour and what it stands for."""
    swatch = f'<svg class="swatch" viewBox="0 0 1 1" aria-hidden="true"><path class="{name}" d="M0 0h1v1h-1z"/></svg>'
    return f'<span class="key">{swatch}{text}</span>'


def thinned(measurement: Measurement, part: int = 1) -> str:
    """What a column stands for, where there are more layers than columns."""
    layers, most = len(measurement.layers), COLUMNS // part
    if layers <= most:
        return ""
    return f'<span class="key">Thinned: a column stands for {math.ceil(layers / most)} neighbouring layers.</span>'
