"""The layers in a terminal: a row each, with bars on a log axis; of a long network the worst, and some between them."""

import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.diagnosis.report.columns import columns, left, printable, right, shortened, wrapped
from sigmoidcore.diagnosis.report.table import first_weights

WHOLE = 20
"""A network of at most so many layers is shown whole."""
ROWS = 16
"""Rows of a longer one."""
WORST = 8
"""Of these, at most so many because a finding names them, and at most `EACH` of one finding."""
EACH = 3
GAP = "  "
BAR_WIDTHS = (10, 24)
KIND_WIDTH = 14
RULE_WIDTH = 6
NAME_WIDTH = 20
"""Columns of a name, at least, before columns of numbers are left out in its favour."""
NARROW = 10
"""Likewise, before bars and kinds are."""
ALIKE = 0.1
"""The spread across samples is a column if it is below this somewhere."""

_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        head: what stands above it.
        show: a row's text.
        telling: whether the column says anything of these layers.
    """

    head: str
    show: Callable[[Layer], str]
    telling: Callable[[Sequence[Layer]], bool]


def listing(measurement: Measurement, findings: Sequence[Finding], width: int) -> list[str]:
    """Lines of at most `width` columns: a heading, then a row a layer in the order in which they ran."""
    layers = measurement.layers
    named = named_layers(measurement, findings)
    chosen = _chosen(measurement, named)
    shown = [layers[i] for i in chosen]
    marks = _marks(findings, named, chosen)
    updates = {layer.name: w.update for layer, w in zip(layers, first_weights(measurement), strict=True) if w}
    numbers = [column for column in _columns_of_numbers(updates) if column.telling(shown)]
    places = [f"{i + 1:,}" for i in chosen] if len(shown) < len(layers) else []

    drawn = any(_log(layer.gradient) is not None for layer in shown)
    names = [printable(layer.name) or "(the model)" for layer in shown]
    kinds = [shortened(printable(layer.kind), KIND_WIDTH) for layer in shown]
    cells = {column: [column.head, *map(column.show, shown)] for column in numbers}

    def taken() -> int:
        """By all but the names and the bars."""
        texts: list[Sequence[str]] = [places, ["kind", *kinds] if kinds else [], marks, *cells.values()]
        widths = [max(map(columns, column)) + len(GAP) for column in texts if column]
        return sum(widths) + len(GAP) + (BAR_WIDTHS[0] + len(GAP)) * drawn

    wanted = max(map(columns, ["layer", *names]))
    while len(cells) > 1 and width - taken() < min(wanted, NAME_WIDTH):
        cells.popitem()
    drawn = drawn and width - taken() >= min(wanted, NARROW)
    kinds = kinds if width - taken() >= min(wanted, NARROW) else []
    free = width - taken()
    names = [shortened(name, free) for name in names]
    bar = min(BAR_WIDTHS[1], BAR_WIDTHS[0] + free - max(map(columns, ["layer", *names])))

    table = [_aligned(right, ["#", *places])] if places else []
    table.append(_aligned(left, ["layer", *names]))
    if kinds:
        table.append(_aligned(left, ["kind", *kinds]))
    for column, texts in cells.items():
        table.append(_aligned(right, texts))
        if column.head == "gradient" and drawn:
            table.append(_aligned(left, ["", *_bars(layers, shown, bar)]))
    if marks:
        table.append(_aligned(left, marks))
    heading = wrapped(_heading(measurement, len(shown)), width)
    return [*heading, *((GAP + GAP.join(row)).rstrip() for row in zip(*table, strict=True))]


def number(value: float | None) -> str:
    """Two decimals, or a power of ten where these would say nothing; "-" for what is not known."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-0", "0")
    return f"{value:.2f}" if 0.01 <= abs(value) < 1000 else f"{value:.0e}"


def scientific(value: float | None) -> str:
    """Three digits and a power of ten; "-" for what is not known."""
    return number(value) if value is None or value == 0 or not math.isfinite(value) else f"{value:.2e}"


def named_layers(measurement: Measurement, findings: Iterable[Finding]) -> list[list[int]]:
    """Of each finding, the positions of the layers that it names, worst first; a parameter stands for its layers."""
    positions: dict[str, list[int]] = {layer.name: [i] for i, layer in enumerate(measurement.layers)}
    users: dict[str, list[int]] = {}
    for i, layer in enumerate(measurement.layers):
        for weight in layer.weights:
            users.setdefault(weight, []).append(i)
    return [
        list(dict.fromkeys(i for name in finding.layers for i in positions.get(name, users.get(name, []))))
        for finding in findings
    ]


def _columns_of_numbers(updates: dict[str, float | None]) -> list[Column]:
    """In their order; when they are too many, the last ones are left out."""
    return [
        Column("gradient", lambda layer: scientific(layer.gradient), lambda _: True),
        Column("gain", lambda layer: number(layer.gain), lambda shown: any(x.gain is not None for x in shown)),
        Column("nonfinite", lambda layer: _count(layer.nonfinite), lambda shown: any(x.nonfinite for x in shown)),
        Column("dead", lambda layer: _share(layer.dead), lambda shown: any(x.dead for x in shown)),
        Column("satur.", lambda layer: _share(layer.saturated), lambda shown: any(x.saturated for x in shown)),
        Column(
            "slope",
            lambda layer: number(layer.relative_slope),
            lambda shown: any(x.relative_slope is not None for x in shown),
        ),
        Column("sharp", lambda layer: _share(layer.sharp), lambda shown: any(x.sharp for x in shown)),
        Column("entropy", lambda layer: number(layer.entropy), lambda shown: any(x.entropy is not None for x in shown)),
        Column(
            "spread",
            lambda layer: number(layer.spread),
            lambda shown: any(x.spread is not None and not x.spread >= ALIKE for x in shown),
        ),
        Column(
            "update",
            lambda layer: number(updates.get(layer.name)),
            lambda shown: any(updates.get(x.name) is not None for x in shown),
        ),
    ]


def _heading(measurement: Measurement, shown: int) -> str:
    count = len(measurement.layers)
    what = "gradient profile" if len(measurement.profile.names) else "layers"
    of = f", {shown} of {count:,} layers" if shown < count else ""
    return f"{what}, input to loss{of}:"


def _chosen(measurement: Measurement, named: Sequence[Sequence[int]]) -> list[int]:
    """Positions of the rows, in order."""
    layers = measurement.layers
    if len(layers) <= WHOLE:
        return list(range(len(layers)))
    worst = [found[rank] for rank in range(EACH) for found in named if rank < len(found)]
    chosen = {0, len(layers) - 1, *list(dict.fromkeys(worst))[:WORST]}
    weighted = [i for i, layer in enumerate(layers) if layer.role == "weights"] or list(range(len(layers)))
    sizes = [(log, i) for i in weighted if (log := _log(layers[i].gradient)) is not None]
    slopes = [(layer.relative_slope, i) for i, layer in enumerate(layers) if layer.relative_slope is not None]
    if sizes:
        chosen |= {min(sizes)[1], max(sizes)[1]}
    if slopes:
        chosen.add(min(slopes)[1])
    # The other rows go to layers at even distances: first where there is a gradient to be drawn.
    for pool in ([i for _, i in sizes], weighted, range(len(layers))):
        if pool:
            chosen |= _even(pool, chosen)
    return sorted(chosen)


def _even(pool: Sequence[int], chosen: Set[int]) -> Set[int]:
    """As many of the pool, at even distances, as there are rows left."""
    found: Set[int] = set()
    for count in range(2, ROWS + 1):
        even = {pool[round(i * (len(pool) - 1) / (count - 1))] for i in range(count)}
        if len(chosen | found) < len(chosen | even) <= ROWS:
            found = even
    return found


def _marks(findings: Sequence[Finding], named: Sequence[Sequence[int]], chosen: Sequence[int]) -> list[str]:
    """A heading and, of each row, the rules that name it; empty, if none does."""
    rules: dict[int, dict[str, None]] = {i: {} for i in chosen}
    for finding, positions in zip(findings, named, strict=True):
        for i in set(positions) & rules.keys():
            rules[i][shortened(printable(finding.rule), RULE_WIDTH)] = None
    if not any(rules.values()):
        return []
    texts = [list(found) for found in rules.values()]
    return ["found", *(" ".join([*t[:2], *([f"+{len(t) - 2}"] if len(t) > 2 else [])]) for t in texts)]


def _bars(layers: Sequence[Layer], shown: Sequence[Layer], width: int) -> list[str]:
    """A bar a row, on a log axis that all layers share and that is one decade long at least."""
    known = [log for layer in layers if (log := _log(layer.gradient)) is not None]
    high = max(known, default=0.0)
    low = min([high - 1, *known])
    logs = [_log(layer.gradient) for layer in shown]
    return ["" if log is None else _bar((log - low) / (high - low), width) for log in logs]


def _bar(share: float, width: int) -> str:
    whole, rest = divmod(round(1 + share * (8 * width - 1)), 8)
    return ("█" * whole + _EIGHTHS[rest]).rstrip()


def _log(value: float | None) -> float | None:
    return math.log10(value) if value is not None and 0 < value < math.inf else None


def _share(value: float | None) -> str:
    if value is None or not 0 <= value <= 1:
        return number(value)
    rounded = round(100 * value)
    if rounded == 0 and value > 0:
        return "<1%"
    return ">99%" if rounded == 100 and value < 1 else f"{rounded}%"


def _count(value: int) -> str:
    return f"{value:,}" if value < 1_000_000 else f"{value:.0e}"


def _aligned(align: Callable[[str, int], str], texts: Sequence[str]) -> list[str]:
    width = max(map(columns, texts))
    return [align(text, width) for text in texts]
