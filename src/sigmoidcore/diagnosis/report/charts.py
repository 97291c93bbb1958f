"""The figures of the page as data, which the template draws as SVG that stretches to any width.

A picture is drawn in columns and pixels: x counts columns, y counts pixels from the top. Colours are in page.css.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import BINS, SHUT, Measurement
from sigmoidcore.diagnosis.report import depth
from sigmoidcore.diagnosis.report.formatting import counted, percent, short
from sigmoidcore.diagnosis.report.table import named_layers

COLUMNS = 480
"""Columns of a figure at most; half as many in the heat map over steps, which has many rows."""
STEPS = 64
"""Rows of the heat map over steps."""
LINES = 6
"""Recurrent layers that are drawn."""
SHADES = 8
"""Shades of a share; of a difference, as many in both directions."""
TALL, BAND = 220, 16
"""Height in pixels of a log axis, and of a band for sizes without a place on it."""
MARKS = {"nan": "not a number", "inf": "infinite", "0": "vanished to 0", "none": "no gradient came back"}

Path = tuple[str, str]
"""Class and data of an SVG path."""
Runs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Tick:
    """A label beside an axis, `at` a share of its length from the left or the top; "10^-3" has an exponent."""

    at: float
    label: str
    line: bool = True


@dataclass(frozen=True)
class Chart:
    """A chart; `shows` are the keys of the table columns for a pointer on it, and `below` is None for time steps."""

    ident: str
    summary: str
    width: int
    height: int
    paths: list[Path]
    vertical: str
    left: list[Tick]
    below: list[Tick] | None
    shows: str = ""
    title: str = ""
    cells: bool = False


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a colour, a scale of colours, or the line of a layer."""

    text: str
    colours: tuple[str, ...] = ()
    first: str = ""
    line: str = ""
    place: int = 0
    name: str = ""


@dataclass(frozen=True)
class Panel:
    """A section of the page, whose words are in the template; `note` says what is left out."""

    ident: str
    charts: list[Chart]
    legend: list[Key]
    note: str = ""


def panels(judgement: Judgement) -> list[Panel]:
    """All figures with data to draw, in the order of the page."""
    drawn = (_profile, _history, _slopes, _outputs, _through_time, _updates)
    return [panel for draw in drawn if (panel := draw(judgement)) is not None]


# --- bars and lines on a log axis -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LogAxis:
    """An axis from 10**low to 10**high with bands above and below it."""

    low: float
    high: float
    above: list[str]
    below: list[str]

    @property
    def bottom(self) -> int:
        return BAND * len(self.above) + TALL

    @property
    def height(self) -> int:
        return self.bottom + BAND * len(self.below)

    def y(self, size: float) -> float:
        return self._y(math.log10(size))

    def _y(self, power: float) -> float:
        return self.bottom - (power - self.low) / (self.high - self.low) * TALL

    def band(self, name: str) -> int:
        """The upper end of a band."""
        return BAND * self.above.index(name) if name in self.above else self.bottom + BAND * self.below.index(name)

    def ticks(self) -> list[Tick]:
        step = max(1, int(depth.round_step(self.high - self.low, 6)))
        powers = [p for p in range(math.ceil(self.low), math.floor(self.high) + 1) if p % step == 0]
        heights = [(p, self._y(p)) for p in powers if self.bottom - TALL + 7 < self._y(p) < self.bottom - 7]
        ticks = [Tick(y / self.height, {0: "1", 1: "10"}.get(power, f"10^{power}")) for power, y in heights]
        names = [*self.above, *self.below]
        return ticks + [Tick((self.band(name) + BAND / 2) / self.height, name, line=False) for name in names]

    def background(self, width: int) -> list[Path]:
        return [("band", f"M0 {self.band(n)}h{width}v{BAND}h-{width}z") for n in (*self.above, *self.below)]


def _profile(judgement: Judgement) -> Panel | None:
    measurement = judgement.measurement
    sizes = depth.gradients(measurement)
    if not sizes.at.size and not sizes.missing.size:
        return None
    worst: dict[int, Severity] = {}
    severities = list(Severity)
    for finding, places in zip(judgement.findings, named_layers(measurement, judgement.findings), strict=True):
        for place in places:
            worst[place] = min(worst.get(place, finding.severity), finding.severity, key=severities.index)
    found = {s: sorted(place for place, severity in worst.items() if severity is s) for s in Severity}
    chart = _bars("profile", "gradient size", measurement, sizes, "gradient gain", found)
    legend = [Key(f"{s} found", (f"found-{s}",)) for s in Severity if found[s]]
    legend += [*_legend_of_marks(sizes), *_thinned(measurement)]
    return Panel("profile", [chart], legend)


def _updates(judgement: Judgement) -> Panel | None:
    measurement = judgement.measurement
    sizes = depth.updates(measurement)
    if not sizes.at.size:
        return None
    chart = _bars("updates", "update-to-weight ratio", measurement, sizes, "update", {})
    return Panel("updates", [chart], [*_legend_of_marks(sizes), *_thinned(measurement)])


def _bars(
    ident: str, what: str, measurement: Measurement, sizes: depth.Sizes, shows: str, found: dict[Severity, list[int]]
) -> Chart:
    """Bars with a band each for findings, nan and inf above them, and for 0 and missing sizes below them."""
    layers, marked = len(measurement.layers), sizes.marked
    above = [*(["found"] if any(found.values()) else []), *(name for name in ("nan", "inf") if name in marked)]
    axis = _LogAxis(*sizes.decades, above, [name for name in ("0", "none") if name in marked])
    count = depth.columns(layers, COLUMNS)
    smallest, largest = depth.envelope(sizes, layers, COLUMNS)
    if layers > COLUMNS:
        runs, gap = [(column, column + 1) for column in np.flatnonzero(~np.isnan(largest)).tolist()], 0.0
    else:  # layers with a column of their own have some room between their bars
        spans = zip(depth.spans(sizes.at, layers, count), sizes.drawable.tolist(), strict=True)
        runs = sorted({span for span, drawable in spans if drawable})
        gap = 0.12 * depth.pitch(sizes.at) * count / layers
    bars = tips = ""
    for first, end in runs:
        x, width, upper, lower = first + gap, end - first - 2 * gap, axis.y(largest[first]), axis.y(smallest[first])
        bars += f"M{x:.5g} {axis.bottom}h{width:.5g}V{upper:.1f}h-{width:.5g}z"
        tips += f"M{x:.5g} {upper - 1.2:.1f}h{width:.5g}V{lower + 1.2:.1f}h-{width:.5g}z"
    paths = [("bar", bars), ("tip", tips), *axis.background(count)]
    bands = [("found", f"found-{severity}", places) for severity, places in found.items() if places]
    bands += [(name, f"mark-{name}", places.tolist()) for name, places in marked.items()]
    for band, name, places in bands:
        marks = depth.spans(np.array(places, dtype=np.int64), layers, count, width=1)
        paths.append((name, _boxes(marks, axis.band(band) + 3)))
    summary = _summary(what, measurement, sizes)
    return Chart(f"chart-{ident}", summary, count, axis.height, paths, what, axis.ticks(), _numbered(layers), shows)


def _boxes(runs: Runs, top: float) -> str:
    """Marks in a band; runs that touch become one."""
    merged: list[list[int]] = []
    for first, end in sorted(runs):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([first, end])
    return "".join(f"M{first} {top:g}h{end - first}v{BAND - 6}h-{end - first}z" for first, end in merged)


def _summary(what: str, measurement: Measurement, sizes: depth.Sizes) -> str:
    """The figure in words."""
    known, places = sizes.values[sizes.drawable], sizes.at[sizes.drawable]
    parts = []
    if known.size:
        ends = [(float(known[i]), int(places[i])) for i in (np.argmin(known), np.argmax(known))]
        smallest, largest = (f"{short(v)} (layer {at + 1}, {measurement.layers[at].name})" for v, at in ends)
        parts.append(f"{what[0].upper()}{what[1:]} from {smallest} to {largest}")
    for name, at in sizes.marked.items():
        parts.append(f"{'no value' if name == 'none' else name} in {counted(np.unique(at).size, 'layer')}")
    return "; ".join(parts) + "."


def _through_time(judgement: Judgement) -> Panel | None:
    found = depth.through_time(judgement.measurement)
    drawn = [(place, layer.name, layer.steps or ()) for place, layer in found[:LINES]]
    if not drawn:
        return None
    values = np.array([size for _, _, sizes in drawn for size in sizes], dtype=np.float64)
    nowhere = np.zeros(0, dtype=np.int64)
    low, high = depth.Sizes(np.zeros(values.size, dtype=np.int64), values, nowhere).decades
    above, below = ["inf, nan"] if not np.isfinite(values).all() else [], ["0"] if (values == 0).any() else []
    axis = _LogAxis(low, high, above, below)
    paths, legend = axis.background(1000), []
    for i, (place, name, sizes) in enumerate(drawn):
        d, pen = "", "M"
        for step, size in enumerate(sizes):
            x = (step + 0.5) / len(sizes) * 1000
            if 0 < size < math.inf:
                d += f"{pen}{x:.5g} {axis.y(size):.1f}"
                pen = "L"
            else:  # a dash in the band
                d += f"M{x - 3:.5g} {axis.band('0' if size == 0 else 'inf, nan') + BAND / 2:g}h6"
                pen = "M"
        paths.append((f"line line{i}", d))
        fact = f"{short(sizes[0])} at the first step, {short(sizes[-1])} at the last"
        legend.append(Key(fact, line=f"line{i}", place=place, name=name))
    summary = f"Gradient size through time. {'; '.join(f'{key.name}: {key.text}' for key in legend)}."
    chart = Chart("chart-time", summary, 1000, axis.height, paths, "gradient size", axis.ticks(), None)
    few = f"{len(drawn)} of {counted(len(found), 'recurrent layer')} are drawn, those in which it changes most."
    return Panel("time", [chart], legend, few if len(found) > len(drawn) else "")


# --- coloured cells -------------------------------------------------------------------------------------------------


def _history(judgement: Judgement) -> Panel | None:
    if len(judgement.history) < 2:
        return None
    history = depth.history(judgement.history, STEPS)
    if not history.at.size:
        return None
    layers, rows = len(judgement.measurement.layers), len(history.steps)
    table = depth.farthest(history.at, history.logs, layers, COLUMNS // 2)
    largest = float(np.abs(table[np.isfinite(table)]).max(initial=0))
    limit = min(max(largest, 0.5), 3.0)
    shades = np.clip(np.nan_to_num(table, posinf=0, neginf=0) / limit, -1, 1) * SHADES
    levels = np.where(np.isnan(table), 0, np.round(shades).astype(np.int64) + SHADES + 1)
    nonfinite, vanished = 2 * SHADES + 2, 2 * SHADES + 3
    levels[table == math.inf], levels[table == -math.inf] = nonfinite, vanished
    ticks = [Tick((i + 0.5) / rows, f"{history.steps[i]:,}", line=False) for i in depth.spread_evenly(rows, 6)]
    summary = (
        f"Gradient size of every layer over the median of its step, in {rows} steps from {history.steps[0]} to "
        f"{history.steps[-1]}; at most {short(10**largest)} times larger or smaller."
    )
    chart = _cells("history", summary, levels, "d", max(60, min(280, 16 * rows)), "step", ticks, layers, "gradient")
    times = short(10**limit)
    legend = [_scale("d", range(1, nonfinite), f"{times} times smaller", f"{times} times larger")]
    legend += [Key("0", (f"d{vanished}",))] if (history.logs == -math.inf).any() else []
    legend += [Key("inf or nan", (f"d{nonfinite}",))] if (history.logs == math.inf).any() else []
    legend += _thinned(judgement.measurement, COLUMNS // 2)
    few = f"Thinned: {rows} of {len(judgement.history):,} measurements, evenly."
    return Panel("history", [chart], legend, few if len(judgement.history) > rows else "")


def _slopes(judgement: Judgement) -> Panel | None:
    measurement = judgement.measurement
    found = depth.slopes(measurement)
    if not found.at.size:
        return None
    levels = _shades(depth.averaged(found.at, found.shares, len(measurement.layers), COLUMNS)[::-1], 0.5)
    levels[-1] += np.where(levels[-1] > 0, SHADES, 0)  # saturated neurons have another colour
    shut = found.shares[: round(SHUT * BINS)].sum(axis=0)
    worst = int(np.argmax(shut))
    place = int(found.at[worst])
    summary = (
        f"Mean relative slopes of the neurons of {counted(found.at.size, 'activation')}. Worst is layer {place + 1}, "
        f"{measurement.layers[place].name}: {percent(float(shut[worst]))} % of its neurons are below {SHUT:g}."
    )
    ticks = [Tick(1 - v, f"{v:g}", line=False) for v in (0, 0.25, 0.5, 0.75, 1)]
    shows = "slope saturated dead"
    chart = _cells("slopes", summary, levels, "q", 200, "relative slope", ticks, len(measurement.layers), shows)
    legend = [_scale("q", range(1, SHADES + 1), "few neurons", "all")]
    legend += [_scale("q", range(SHADES + 1, 2 * SHADES + 1), f"below {SHUT:g}: few", "all"), *_thinned(measurement)]
    return Panel("slopes", [chart], legend)


def _outputs(judgement: Judgement) -> Panel | None:
    measurement = judgement.measurement
    layers, charts = len(measurement.layers), []
    for ident, title, weighted in (
        ("weighted", "Layers with weights", True), ("activations", "Activations and attention", False),
    ):  # fmt: skip
        found = depth.outputs(measurement, weighted)
        if found.at.size:
            table = depth.averaged(found.at, found.shares, layers, COLUMNS)[::-1]
            fullest = np.nan_to_num(table).max(axis=0)
            levels = _shades(table / np.where(fullest > 0, fullest, 1), 0.7)
            ends = f"from {short(found.axis.low)} to {short(found.axis.high)}"
            summary = f"Outputs of {counted(found.at.size, 'layer')} ({title.lower()}), {ends}."
            what = "output" + (f", logarithmic beyond {short(found.axis.knee)}" if found.axis.knee else "")
            ticks = [Tick(1 - at, label) for at, label in found.axis.ticks()]
            charts.append(_cells(ident, summary, levels, "q", 160, what, ticks, layers, "rms spread", title))
    if not charts:
        return None
    legend = [_scale("q", range(1, SHADES + 1), "few values", "most"), *_thinned(measurement)]
    return Panel("outputs", charts, legend)


def _cells(
    ident: str, summary: str, levels: depth.Ints, colours: str, height: int, what: str, ticks: list[Tick], layers: int,
    shows: str, title: str = "",
) -> Chart:  # fmt: skip
    """Cells for levels [rows, columns], row 0 at the top; 0 is left out, level n has the class `colours` + n."""
    paths: dict[int, str] = {}
    tall = height / len(levels)
    for row, line in enumerate(levels.tolist()):
        column = 0
        for level, run in itertools.groupby(line):
            length = len(list(run))
            if level:
                paths[level] = f"{paths.get(level, '')}M{column} {row * tall:.5g}h{length}v{tall:.5g}h-{length}z"
            column += length
    drawn = [(f"{colours}{level}", d) for level, d in sorted(paths.items())]
    below, width = _numbered(layers), levels.shape[1]
    return Chart(f"chart-{ident}", summary, width, height, drawn, what, ticks, below, shows, title, cells=True)


def _shades(table: depth.Floats, exponent: float) -> depth.Ints:
    """Shares as shades, small ones raised to be visible; 0 for none."""
    return np.ceil(SHADES * np.nan_to_num(table) ** exponent - 1e-9).astype(np.int64)


# --- axes and legends -----------------------------------------------------------------------------------------------


def _numbered(layers: int) -> list[Tick]:
    """Ticks under layers, at round numbers that count from 1."""
    step = max(1, int(depth.round_step(layers, 8))) if layers else 1
    numbers = [1, *range(step, layers + 1, step)] if step > 1 else list(range(1, layers + 1))
    return [Tick((number - 0.5) / max(1, layers), f"{number:,}") for number in numbers]


def _legend_of_marks(sizes: depth.Sizes) -> list[Key]:
    found = sizes.marked.items()
    return [Key(f"{n}: {MARKS[n]} in {counted(np.unique(at).size, 'layer')}", (f"mark-{n}",)) for n, at in found]


def _scale(colours: str, levels: Iterable[int], first: str, last: str) -> Key:
    return Key(last, tuple(f"{colours}{level}" for level in levels), first)


def _thinned(measurement: Measurement, most: int = COLUMNS) -> list[Key]:
    layers = len(measurement.layers)
    if layers <= most:
        return []
    return [Key(f"Thinned: a column stands for {math.ceil(layers / most)} neighbouring layers.")]
