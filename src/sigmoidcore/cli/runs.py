"""`sigmoid-core runs`: what runs there are, and how they differ."""

import datetime
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len

from sigmoidcore.cli.common import in_one_line
from sigmoidcore.diagnosis.report.terminal import writable
from sigmoidcore.training.data import DataError, Kind, listed, short, task
from sigmoidcore.training.display import Screen, clock, count, number, reached
from sigmoidcore.training.runs.folder import RUNS
from sigmoidcore.training.runs.listing import Listed, Summary, differing, runs_in, summary


class Order(StrEnum):
    """What runs are sorted by."""

    date = "date"
    name = "name"
    metric = "metric"
    time = "time"


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER | RUN RUN ...]",
            show_default="runs",
            help="A folder of runs, which are listed; or two runs and more, which are compared.",
        ),
    ] = None,
    sort: Annotated[
        Order, typer.Option("--sort", help="By date (the latest last), name, metric (the best first) or time.")
    ] = Order.date,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List the runs in a folder, or compare runs: which options differ, and what came of it."""
    given = folders or [RUNS]
    screen = Screen.of_stdout()
    with in_one_line():
        if len(given) > 1:
            return _compare(screen, [summary(folder) for folder in given], as_json)
        try:
            found = Listed((summary(given[0]),), (), ())
        except DataError:
            if (given[0] / "config.toml").exists():
                raise
            found = runs_in(given[0], sort.value)
    if as_json:
        _print({"runs": [run.as_json() for run in found.runs], "damaged": found.damaged, "foreign": found.foreign})
        return 0
    _list(screen, found, given[0])
    return 0


def _print(content: Any) -> None:
    print(writable(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)))


def _list(screen: Screen, found: Listed, folder: Path) -> None:
    if found.runs:
        columns = ["run", "data", "shape", "outcome", "steps", "metric", "spread", "time", "date"]
        rows = [_row(run) for run in found.runs]
        _fit(columns, rows, screen.console.width - 5)
        screen.table(columns, rows)
    else:
        screen.say(f"no run is in {folder}: `sigmoid-core train` makes one")
    for sentence in found.damaged:
        screen.say(f"left out: {sentence}")
    if found.foreign:
        screen.say(f"no run: {listed(found.foreign)}")


def _row(run: Summary) -> list[str]:
    spread = "-" if run.spread is None else number(run.spread)
    return [
        run.name, run.data, run.shape, run.outcome, f"{run.steps:,}", _metric(run, run.metric), spread,
        clock(run.seconds), _date(run.started),
    ]  # fmt: skip


def _metric(run: Summary, value: float | None) -> str:
    name = run.metric_name
    kind = next(kind for kind in (Kind.CLASSES, Kind.NUMBER) if task(kind).metric_name == name)
    text = reached(task(kind), value)
    return text if value is None or kind.is_class else f"{name} {text}"


def _date(started: str) -> str:
    try:
        return f"{datetime.datetime.fromisoformat(started).astimezone():%m-%d %H:%M}"
    except ValueError:
        return "-"


def _fit(columns: Sequence[str], rows: list[list[str]], width: int) -> None:
    """Cut the names of runs and data where the table is wider than the terminal; the longest first."""
    sizes = [max(cell_len(line[i]) for line in [list(columns), *rows]) for i in range(len(columns))]
    while sum(sizes) + 2 * (len(sizes) - 1) > width and max(sizes[:2]) > 8:
        sizes[0 if sizes[0] >= sizes[1] else 1] -= 1
    for row in rows:
        row[:2] = [_cut(row[i], sizes[i]) for i in (0, 1)]


def _cut(text: str, size: int) -> str:
    """The beginning and the end of a text: names of runs end with their number."""
    if cell_len(text) <= size:
        return text
    tail = max(2, size // 3)
    return f"{text[: size - tail - 1]}…{text[-tail:]}"


def _compare(screen: Screen, found: Sequence[Summary], as_json: bool) -> int:
    options = differing(found)
    if as_json:
        _print({"runs": [run.as_json() for run in found], "differing": {k: list(v) for k, v in options.items()}})
        return 0
    names = [short(run.name, max(8, (screen.console.width - 24) // len(found) - 2)) for run in found]
    screen.heading(f"Options that differ: {len(options)} of {count(len(found[0].config.options), 'option')}")
    if options:
        rows = [[name.replace("_", "-"), *(_value(v) for v in values)] for name, values in options.items()]
        screen.table(["", *names], rows)
    screen.heading("What came of it")
    same = len({run.metric_name for run in found}) == 1
    label = f"test {found[0].metric_name}" if same else "test metric"
    rows = [
        ["outcome", *(run.outcome for run in found)],
        ["steps", *(f"{run.steps:,}" for run in found)],
        [label, *(_metric(run, run.metric) for run in found)],
        ["its best epoch", *(_metric(run, run.best) for run in found)],
        ["training loss", *("-" if run.loss is None else f"{run.loss:.3g}" for run in found)],
        ["spread", *("-" if run.spread is None else number(run.spread) for run in found)],
        ["time", *(clock(run.seconds) for run in found)],
        ["date", *(_date(run.started) for run in found)],
    ]
    screen.table(["", *names], rows)
    return 0


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "-" if isinstance(value, list) else short(value, 30)
