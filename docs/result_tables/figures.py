"""The rows of the result files, and how figures are written."""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
Row = dict[str, Any]


LATER = {"peers": ("peers_1000", "depth"), "ablation": ("ablation_1000", "depth")}
"""Files that replace the rows of another one that have the same value of a field."""


@cache
def rows(name: str) -> list[Row]:
    """The rows of a result file, those that were measured again from the later file."""
    loaded: list[Row] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    if name not in LATER:
        return loaded
    later, field = rows(LATER[name][0]), LATER[name][1]
    again = {row[field] for row in later}
    return [*(row for row in loaded if row[field] not in again), *later]


def select(name: str, **values: object) -> list[Row]:
    """The rows of a result file that have these values."""
    return [row for row in rows(name) if all(row[key] == value for key, value in values.items())]


def one(name: str, **values: object) -> Row:
    """The only row that has these values."""
    (row,) = select(name, **values)
    return row


def percent(value: float) -> str:
    return f"{value + 1e-9:.1f} %"


def short(value: float) -> str:
    """Two digits; powers of ten as in 2e12."""
    return re.sub(r"(\.0)?e\+?(-?)0*", r"e\2", f"{value:.2g}")


def of_spread(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}" if value < 1e4 else short(value)


def bold(text: str, condition: bool) -> str:
    return f"**{text}**" if condition else text


def between(values: Iterable[float], link: str, form: str = ".1f") -> str:
    """The range of some figures."""
    return f"{min(values := list(values)):{form}} {link} {max(values):{form}}"
