"""The layers as lines of text, with bars on a log axis; of a long network the worst and evenly spaced others."""

import math
from collections.abc import Iterable, Sequence

from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.diagnosis.report.depth import through_time
from sigmoidcore.diagnosis.report.table import Column, named_layers, number_columns
from sigmoidcore.diagnosis.report.terminal import columns, printable, shortened, wrapped

SHORT = 20
"""A network of at most this many layers is shown in full."""
ROWS = 16
"""Rows of a longer one."""
WORST, EACH = 8, 3
"""Rows for layers that findings name: in all, and for one finding."""
NUMBERS = ("gradient", "gain", "nonfinite", "dead", "saturated", "slope", "sharp", "entropy", "spread", "update")
"""Columns of numbers; the last ones are left out first in a narrow terminal."""
LEFT = ("layer", "kind", "", "found")
"""Headings of columns of words and bars."""
BARS = (10, 24)
NAME_WIDTH, KIND_WIDTH, RULE_WIDTH = 20, 14, 6
RECURRENT, TIME_BARS = 6, (6, 32)
"""Recurrent layers that are shown, those whose gradient changes most, and columns of their bars."""


def layer_rows(measurement: Measurement, findings: Sequence[Finding], width: int) -> list[str]:
    """Lines of at most `width` columns: a heading, then a row for each shown layer in the order in which they ran."""
    layers = measurement.layers
    named = named_layers(measurement, findings)
    chosen = _chosen(measurement, named)
    shown = [layers[i] for i in chosen]
    found = {column.key: column for column in number_columns(measurement)}
    numbers = [found[key] for key in NUMBERS if key == "gradient" or _tells(found[key], shown)]
    names = [printable(layer.name) or "(the model)" for layer in shown]
    marks = _marks(findings, named, chosen)

    table = {"#": [f"{i + 1:,}" for i in chosen]} if len(shown) < len(layers) else {}
    table["layer"], table["kind"] = names, [shortened(printable(layer.kind), KIND_WIDTH) for layer in shown]
    for column in numbers:
        table[column.head.removesuffix(" %")] = [_text(column, layer) for layer in shown]
        if column.key == "gradient" and any(_log(layer.gradient) is not None for layer in shown):
            table[""] = [" " * BARS[0] for _ in shown]
    if any(marks):
        table["found"] = marks

    wanted = max(map(columns, ["layer", *names]))
    optional = [*reversed([column.head.removesuffix(" %") for column in numbers[1:]]), "", "kind"]
    while optional and width - _taken(table) < min(wanted, NAME_WIDTH):
        table.pop(optional.pop(0), None)
    room = width - _taken(table)
    table["layer"] = [shortened(name, room) for name in names]
    if "" in table:
        free = room - max(map(columns, ["layer", *table["layer"]]))
        table[""] = _bars(layers, shown, min(BARS[1], BARS[0] + free))
    what = "gradient profile" if len(measurement.profile.names) else "layers"
    part = f", {len(shown)} of {len(layers):,} layers" if len(shown) < len(layers) else ""
    lines = _joined([[head, *texts] for head, texts in table.items()], (head not in LEFT for head in table))
    return [*wrapped(f"{what}, input to loss{part}:", width), *lines]


def time_step_rows(measurement: Measurement, width: int) -> list[str]:
    """The gradient through time of recurrent layers, a line for each, in lines of at most `width` columns."""
    recurrent = through_time(measurement)
    if not recurrent:
        return []
    worst = sorted(recurrent[:RECURRENT], key=lambda pair: pair[0])
    shown = [(layer.name, layer.steps or ()) for _, layer in worst]
    firsts, lasts = ([_scientific(steps[end]) for _, steps in shown] for end in (0, -1))
    bars = [_time_bars(steps, max(TIME_BARS[0], min(TIME_BARS[1], width - 48))) for _, steps in shown]
    room = width - 8 - sum(max(map(columns, texts)) for texts in (firsts, bars, lasts))
    names = [shortened(printable(name) or "(the model)", room) for name, _ in shown]
    part = f", {len(shown)} of {len(recurrent):,} layers" if len(shown) < len(recurrent) else ""
    lines = _joined([names, firsts, bars, lasts], (False, True, False, True))
    return [*wrapped(f"gradient through time, first step to last{part}:", width), *lines]


def _chosen(measurement: Measurement, named: Sequence[Sequence[int]]) -> list[int]:
    """Positions of the shown layers, in order."""
    layers = measurement.layers
    if len(layers) <= SHORT:
        return list(range(len(layers)))
    worst = [found[rank] for rank in range(EACH) for found in named if rank < len(found)]
    weighted = [i for i, layer in enumerate(layers) if layer.role == "weights"] or list(range(len(layers)))
    sizes = [(log, i) for i in weighted if (log := _log(layers[i].gradient)) is not None]
    slopes = [(layer.relative_slope, i) for i, layer in enumerate(layers) if layer.relative_slope is not None]
    chosen = {0, len(layers) - 1, *list(dict.fromkeys(worst))[:WORST]}
    if sizes:
        chosen |= {min(sizes)[1], max(sizes)[1]}
    if slopes:
        chosen.add(min(slopes)[1])
    # Layers at even distances fill the other rows, first among those with a gradient.
    for pool in ([i for _, i in sizes], weighted, range(len(layers))):
        even: set[int] = set()
        for count in range(2, ROWS + 1 if pool else 0):
            more = {pool[round(i * (len(pool) - 1) / (count - 1))] for i in range(count)}
            if len(chosen | even) < len(chosen | more) <= ROWS:
                even = more
        chosen |= even
    return sorted(chosen)


def _tells(column: Column, shown: Iterable[Layer]) -> bool:
    return any(value is not None and column.notable(value) for value in map(column.value, shown))


def _text(column: Column, layer: Layer) -> str:
    value = column.value(layer)
    if column.key == "gradient":
        return _scientific(value)
    if column.key == "nonfinite":
        return f"{value or 0:,}" if (value or 0) < 1_000_000 else f"{value:.0e}"
    if not column.head.endswith("%") or value is None or not 0 <= value <= 1:
        return _number(value)
    rounded = round(100 * value)
    if rounded == 0 and value > 0:
        return "<1%"
    return ">99%" if rounded == 100 and value < 1 else f"{rounded}%"


def _number(value: float | None) -> str:
    """Two decimals, or a power of ten for small and large numbers; "-" for an unknown number."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-0", "0")
    return f"{value:.2f}" if 0.01 <= abs(value) < 1000 else f"{value:.0e}"


def _scientific(value: float | None) -> str:
    return _number(value) if value is None or value == 0 or not math.isfinite(value) else f"{value:.2e}"


def _marks(findings: Sequence[Finding], named: Sequence[Sequence[int]], chosen: Sequence[int]) -> list[str]:
    """Of each row, the rules that name its layer."""
    rules: dict[int, dict[str, None]] = {i: {} for i in chosen}
    for finding, positions in zip(findings, named, strict=True):
        for i in set(positions) & rules.keys():
            rules[i][shortened(printable(finding.rule), RULE_WIDTH)] = None
    texts = [list(found) for found in rules.values()]
    return [" ".join([*text[:2], *([f"+{len(text) - 2}"] if len(text) > 2 else [])]) for text in texts]


def _taken(table: dict[str, list[str]]) -> int:
    """Columns of all but the names."""
    return 2 + sum(2 + max(map(columns, [head, *texts])) for head, texts in table.items() if head != "layer")


def _joined(table: Sequence[Sequence[str]], right: Iterable[bool]) -> list[str]:
    """Lines of a table that is given by its columns, each aligned to the right or to the left."""
    padded = []
    for texts, to_the_right in zip(table, right, strict=True):
        size = max(map(columns, texts))
        gaps = [" " * (size - columns(text)) for text in texts]
        padded.append([gap + text if to_the_right else text + gap for text, gap in zip(texts, gaps, strict=True)])
    return [("  " + "  ".join(row)).rstrip() for row in zip(*padded, strict=True)]


def _bars(layers: Sequence[Layer], shown: Sequence[Layer], width: int) -> list[str]:
    """A bar for each row, on one log axis of at least one decade."""
    known = [log for layer in layers if (log := _log(layer.gradient)) is not None]
    high = max(known)
    low = min([high - 1, *known])
    bars = []
    for log in (_log(layer.gradient) for layer in shown):
        full, eighths = divmod(0 if log is None else round(1 + (log - low) / (high - low) * (8 * width - 1)), 8)
        bars.append(("█" * full + " ▏▎▍▌▋▊▉"[eighths]).rstrip())
    return bars


def _time_bars(steps: Sequence[float], most: int) -> str:
    """A character for each step, or for a few steps, on a log axis of at least one decade; "_": 0, "!": not finite."""
    count = min(most, len(steps))
    thinned = [steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)]
    logs = [log for step in thinned if (log := _log(step)) is not None]
    high = max(logs, default=0.0)
    low = min([high - 1, *logs])
    bars = ""
    for step, log in zip(thinned, map(_log, thinned), strict=True):
        bars += ("_" if step == 0 else "!") if log is None else "▁▂▃▄▅▆▇█"[round(7 * (log - low) / (high - low))]
    return bars


def _log(value: float | None) -> float | None:
    return math.log10(value) if value is not None and 0 < value < math.inf else None
