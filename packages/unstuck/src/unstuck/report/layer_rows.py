"""The layers as lines of text, with bars on a log axis; of a long network the most telling ones."""

import math
from collections.abc import Iterable, Sequence

from unstuck.findings import Finding
from unstuck.language import _
from unstuck.language.terminal import printable, shortened, text_width, wrapped
from unstuck.measure.measurement import Layer, Measurement
from unstuck.report.axes import drawable
from unstuck.report.charts import through_time
from unstuck.report.layer_table import Column, cell, findings_by_layer, most_telling, number_columns
from unstuck.wording import short_number

SHORT, ROWS = 20, 16
"""A network of at most `SHORT` layers is shown in full, of a longer one `ROWS`."""
NUMBERS = ("gradient", "gain", "nonfinite", "dead", "saturated", "slope", "sharp", "entropy", "spread", "update")
"""Columns of numbers; the last ones are left out first in a narrow terminal."""
BAR = ""
"""The heading of the bars."""
BARS = (10, 24)
NAME_WIDTH, KIND_WIDTH, RULE_WIDTH = 20, 14, 6
RECURRENT, TIME_BARS = 6, (6, 32)
"""Recurrent layers that are shown, those whose gradient changes most, and columns of their bars."""


def layer_rows(measurement: Measurement, findings: Sequence[Finding], width: int) -> list[str]:
    """Lines of at most `width` columns: a heading, then a row for each shown layer in the order in which they ran."""
    layers = measurement.layers
    chosen = list(range(len(layers))) if len(layers) <= SHORT else most_telling(measurement, findings, ROWS)
    shown = [layers[i] for i in chosen]
    known = {column.key: column for column in number_columns(measurement)}
    numbers = [known[key] for key in NUMBERS if key == "gradient" or _is_notable(known[key], shown)]
    names = [printable(layer.name) or _("(the model)") for layer in shown]
    found = findings_by_layer(measurement, findings)
    rules = [
        list(dict.fromkeys(shortened(printable(findings[n].rule), RULE_WIDTH) for n in found.get(i, ())))
        for i in chosen
    ]
    marks = [" ".join([*of[:2], *([f"+{len(of) - 2}"] if len(of) > 2 else [])]) for of in rules]

    table = {"#": [f"{i + 1:,}" for i in chosen]} if len(shown) < len(layers) else {}
    name, kind = _("layer"), _("kind")
    table |= {name: names, kind: [shortened(printable(layer.kind), KIND_WIDTH) for layer in shown]}
    for column in numbers:
        digits = 3 if column.key == "gradient" else 2
        table[column.head] = [cell(column, layer, digits) or "-" for layer in shown]
        if column.key == "gradient" and any(drawable(layer.gradient) for layer in shown):
            table[BAR] = [" " * BARS[0]] * len(shown)
    if any(marks):
        table[_("found")] = marks

    optional = [*reversed([column.head for column in numbers[1:]]), BAR, kind]
    while optional and width - _taken(table, name) < min(max(map(text_width, [name, *names])), NAME_WIDTH):
        table.pop(optional.pop(0), None)
    room = width - _taken(table, name)
    table[name] = [shortened(each, room) for each in names]
    if BAR in table:
        free = room - max(map(text_width, [name, *table[name]]))
        table[BAR] = _bars(layers, shown, min(BARS[1], BARS[0] + free))
    part = _part(shown, layers)
    what = _("layers, input to loss{part}:", part=part)
    if measurement.profile.names:
        what = _("gradient profile, input to loss{part}:", part=part)
    to_the_right = (head not in (name, kind, BAR, _("found")) for head in table)
    lines = _joined([[head, *texts] for head, texts in table.items()], to_the_right)
    return [*wrapped(what, width), *lines]


def time_step_rows(measurement: Measurement, width: int) -> list[str]:
    """The gradient through time of recurrent layers, a line for each, in lines of at most `width` columns."""
    recurrent = through_time(measurement)
    if not recurrent:
        return []
    shown = [(layer.name, layer.steps or ()) for _, layer in sorted(recurrent[:RECURRENT], key=lambda pair: pair[0])]
    firsts, lasts = ([short_number(steps[end]) for _, steps in shown] for end in (0, -1))
    bars = [_time_bars(steps, max(TIME_BARS[0], min(TIME_BARS[1], width - 48))) for _, steps in shown]
    room = width - 8 - sum(max(map(text_width, texts)) for texts in (firsts, bars, lasts))
    names = [shortened(printable(name) or _("(the model)"), room) for name, _steps in shown]
    lines = _joined([names, firsts, bars, lasts], (False, True, False, True))
    what = _("gradient through time, first step to last{part}:", part=_part(shown, recurrent))
    return [*wrapped(what, width), *lines]


def _part(shown: Sequence[object], layers: Sequence[object]) -> str:
    if len(shown) == len(layers):
        return ""
    return _(", {count} of {all} layers", count=len(shown), all=f"{len(layers):,}")


def _is_notable(column: Column, shown: Iterable[Layer]) -> bool:
    return any(value is not None and column.notable(value) for value in map(column.value, shown))


def _taken(table: dict[str, list[str]], name: str) -> int:
    """Columns of all but the names."""
    return 2 + sum(2 + max(map(text_width, [head, *texts])) for head, texts in table.items() if head != name)


def _joined(table: Iterable[Sequence[str]], to_the_right: Iterable[bool]) -> list[str]:
    """Lines of a table that is given by its columns, each aligned to the right or to the left."""
    padded = []
    for texts, right in zip(table, to_the_right, strict=True):
        gaps = [" " * (max(map(text_width, texts)) - text_width(text)) for text in texts]
        padded.append([gap + text if right else text + gap for text, gap in zip(texts, gaps, strict=True)])
    return [("  " + "  ".join(row)).rstrip() for row in zip(*padded, strict=True)]


def _bars(layers: Sequence[Layer], shown: Sequence[Layer], width: int) -> list[str]:
    """A bar for each row, on one log axis of at least one decade."""
    heights = _heights([layer.gradient for layer in shown], [layer.gradient for layer in layers])
    eighths = [0 if height is None else round(1 + height * (8 * width - 1)) for height in heights]
    return [("█" * (n // 8) + " ▏▎▍▌▋▊▉"[n % 8]).rstrip() for n in eighths]


def _time_bars(steps: Sequence[float], most: int) -> str:
    """A character for each step, or for a few steps, on a log axis of at least one decade; "_": 0, "!": not finite."""
    count = min(most, len(steps))
    thinned = [steps[round(i * (len(steps) - 1) / max(1, count - 1))] for i in range(count)]
    heights = zip(thinned, _heights(thinned, thinned), strict=True)
    return "".join(("_" if s == 0 else "!") if h is None else "▁▂▃▄▅▆▇█"[round(7 * h)] for s, h in heights)


def _heights(sizes: Iterable[float | None], every: Iterable[float | None]) -> list[float | None]:
    """Heights from 0 to 1 on a log axis of at least one decade for every size; None without a place on it."""
    logs = [math.log10(size) for size in every if size is not None and drawable(size)]
    high = max(logs, default=0.0)
    low = min([high - 1, *logs])
    return [(math.log10(s) - low) / (high - low) if s is not None and drawable(s) else None for s in sizes]
