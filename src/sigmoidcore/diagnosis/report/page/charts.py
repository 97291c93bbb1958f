"""Charts of a page: an SVG that stretches to any width, and labels in HTML that keep their size.

The page has the colours, and a chart needs no script. Its picture is drawn
in columns and pixels: x counts columns, y counts pixels from the top.
"""

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sigmoidcore.diagnosis.report.wording import power

Levels = NDArray[np.int64]
Runs = Iterable[tuple[int, int]]


TALL = 220
"""Height in pixels of a log axis."""
BAND = 16
"""Height in pixels of a band for what a log axis has no place for."""


@dataclass(frozen=True)
class Tick:
    """A label beside an axis, `at` a share of its length from the left or the top."""

    at: float
    label: str
    line: bool = True


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        ident: unique in the page.
        summary: what one sees, in words, for those who do not.
        width: columns.
        height: pixels.
        picture: SVG.
        upright: what the vertical axis is.
        left: ticks of the vertical axis.
        below: ticks of the horizontal axis.
        ends: words at the ends of the horizontal axis and in its middle.
        over_depth: the horizontal axis is that of the layers.
        shows: columns of the table that a pointer on the chart reads.
    """

    ident: str
    summary: str
    width: int
    height: int
    picture: str
    upright: str
    left: Sequence[Tick]
    below: Sequence[Tick]
    ends: tuple[str, str, str] = ("input", "layer", "loss")
    over_depth: bool = True
    shows: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """The chart as HTML."""
        lines = "".join(f"M0 {t.at * self.height:.1f}h{self.width}" for t in self.left if t.line)
        depth = f' data-depth data-shows="{" ".join(self.shows)}"' if self.over_depth else ""
        return (
            f'<div class="chart" id="{self.ident}"{depth}>'
            f'<div class="upright" aria-hidden="true">{self.upright}</div>'
            f'<div class="left" aria-hidden="true">{_labels(self.left, "top")}</div>'
            f'<div class="plot" role="img" aria-label="{html.escape(self.summary)}">'
            f'<svg viewBox="0 0 {self.width} {self.height}" preserveAspectRatio="none" aria-hidden="true"'
            f' style="height:{self.height}px"><path class="grid" d="{lines}"/>{self.picture}</svg></div>'
            f'<div class="below" aria-hidden="true">{_labels(self.below, "left")}</div>'
            f'<div class="ends" aria-hidden="true">{"".join(f"<span>{word}</span>" for word in self.ends)}</div></div>'
        )


def _labels(ticks: Sequence[Tick], side: str) -> str:
    return "".join(
        f"<span{' class=edge' if side == 'left' and t.at > 0.97 and len(t.label) > 3 else ''}"
        f' style="{side}:{100 * t.at:.2f}%">{t.label}</span>'
        for t in ticks
    )


def cells(levels: Levels, height: float, kind: str, top: float = 0.0) -> str:
    """Coloured cells: `levels` [rows, columns], row 0 at the top; 0 is left out, level n has the class `kind` + n."""
    paths: dict[int, list[str]] = {}
    for row, line in enumerate(levels.tolist()):
        column = 0
        for level, run in itertools.groupby(line):
            length = len(list(run))
            if level:
                paths.setdefault(level, []).append(f"M{column} {row}h{length}v1h-{length}z")
            column += length
    drawn = "".join(f'<path class="{kind}{level}" d="{"".join(d)}"/>' for level, d in sorted(paths.items()))
    place = f"translate(0 {top:g}) scale(1 {height / max(1, len(levels)):g})"
    return f'<g class="cells" transform="{place}">{drawn}</g>'


def boxes(runs: Runs, top: float, height: float, gap: float, name: str) -> str:
    """Boxes of one height over columns, such as marks in a band."""
    d = "".join(
        f"M{first + gap:g} {top:g}h{end - first - 2 * gap:g}v{height:g}h-{end - first - 2 * gap:g}z"
        for first, end in runs
    )
    return f'<path class="{name}" d="{d}"/>' if d else ""


def merged(runs: Runs) -> list[tuple[int, int]]:
    """Runs of columns, those that touch made one."""
    result: list[tuple[int, int]] = []
    for first, end in sorted(runs):
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((first, end))
    return result


def numbered(layers: int, most: int = 8) -> list[Tick]:
    """Ticks under layers, at round numbers that count from 1."""
    step = _round_step(layers, most)
    numbers = [1, *range(step, layers + 1, step)] if step > 1 else list(range(1, layers + 1))
    return [Tick((number - 0.5) / max(1, layers), f"{number:,}") for number in numbers]


def _round_step(length: float, most: int) -> int:
    """The smallest of 1, 2, 5, 10, ... that fits into a length at most so many times."""
    decade = 1
    while True:
        for step in (decade, 2 * decade, 5 * decade):
            if length / step <= most:
                return step
        decade *= 10


def decades(low: float, high: float, height: float, top: float, bottom: float, most: int = 6) -> list[Tick]:
    """Ticks of a log axis from 10**low to 10**high, that lies between two heights of a chart."""
    step = _round_step(high - low, most)
    powers = [p for p in range(math.ceil(low), math.floor(high) + 1) if p % step == 0]
    places = [(p, bottom - (p - low) / (high - low) * (bottom - top)) for p in powers]
    return [Tick(y / height, power(p)) for p, y in places if top + 7 < y < bottom - 7]
