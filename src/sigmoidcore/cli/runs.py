"""`sigmoid-core runs`: a list of runs, or the differences between runs."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.cells import cell_len

from sigmoidcore.cli.common import print_json
from sigmoidcore.training.data import DataError, Kind, listed, short, task
from sigmoidcore.training.display import Screen, clock, count, metric_text, number
from sigmoidcore.training.runs.folder import RUNS
from sigmoidcore.training.runs.listing import Listed, Summary, differences, runs_in, summary

FOLDERS = typer.Argument(
    metavar="FOLDER", show_default="runs", help="A folder of runs to list, or several runs to compare."
)
SORT = typer.Option("--sort", help="By date (latest last), name, metric (best first) or time.")
COLUMNS = ("run", "data", "shape", "outcome", "steps", "metric", "spread", "time", "date")
RESULTS = ("outcome", "steps", "metric", "its best epoch", "training loss", "spread", "time", "date")
OPTIONAL = ("data", "steps", "spread", "shape", "time")
"""Columns that a narrow terminal does not show, the first ones first."""


def runs(
    folders: Annotated[list[Path] | None, FOLDERS] = None,
    sort: Annotated[Literal["date", "name", "metric", "time"], SORT] = "date",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List the runs in a folder, or compare runs: options that differ, and results."""
    screen = Screen.of_stdout()
    folder, *others = folders or [RUNS]
    content: dict[str, Any]
    if others:
        compared = [summary(run) for run in (folder, *others)]
        content = {"runs": [run.as_json() for run in compared], "differing": differences(compared)}
    else:
        listing = _runs_of(folder, sort)
        found = [run.as_json() for run in listing.runs]
        content = {"runs": found, "damaged": listing.damaged, "foreign": listing.foreign}
    if as_json:
        print_json(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    elif others:
        _compare(screen, compared)
    else:
        _list(screen, listing, folder)
    return 0


def _runs_of(folder: Path, sort: str) -> Listed:
    """The run in a folder, or the runs in its subfolders."""
    try:
        return Listed((summary(folder),), (), ())
    except DataError:
        if (folder / "config.toml").exists():
            raise
    return runs_in(folder, sort)


def _list(screen: Screen, listing: Listed, folder: Path) -> None:
    if listing.runs:
        rows = [_cells(run) for run in listing.runs]
        columns = list(COLUMNS)
        for column in OPTIONAL:
            sizes = [max(cell_len(text) for text in (name, *(row[name] for row in rows))) + 2 for name in columns]
            if sum(sizes) <= screen.console.width - 1:
                break
            columns.remove(column)
        screen.table(columns, [[row[name] for name in columns] for row in rows])
    else:
        screen.say(f"{folder} contains no run: `sigmoid-core train` makes one")
    for sentence in listing.damaged:
        screen.say(f"left out: {sentence}")
    if listing.foreign:
        screen.say(f"not a run: {listed(listing.foreign)}")


def _cells(run: Summary) -> dict[str, str]:
    return {
        "run": run.name, "data": run.data, "shape": run.shape, "outcome": run.outcome, "steps": f"{run.steps:,}",
        "metric": _metric(run, run.metric), "its best epoch": _metric(run, run.best),
        "training loss": "-" if run.loss is None else f"{run.loss:.3g}",
        "spread": "-" if run.spread is None else number(run.spread), "time": clock(run.seconds),
        "date": _date(run.started),
    }  # fmt: skip


def _compare(screen: Screen, found: Sequence[Summary]) -> None:
    options = differences(found)
    names = [short(run.name, max(8, (screen.console.width - 24) // len(found) - 2)) for run in found]
    screen.heading(f"Options that differ: {len(options)} of {count(len(found[0].config.options), 'option')}")
    if options:
        rows = [[name.replace("_", "-"), *map(_value, values)] for name, values in options.items()]
        screen.table(["", *names], rows)
    screen.heading("Results")
    metrics = {run.metric_name for run in found}
    titles = {"metric": f"test {metrics.pop() if len(metrics) == 1 else 'metric'}"}
    cells = [_cells(run) for run in found]
    screen.table(["", *names], [[titles.get(name, name), *(run[name] for run in cells)] for name in RESULTS])


def _metric(run: Summary, value: float | None) -> str:
    kind = next(kind for kind in (Kind.CLASSES, Kind.NUMBER) if task(kind).metric_name == run.metric_name)
    text = metric_text(task(kind), value)
    return text if value is None or kind.is_class else f"{run.metric_name} {text}"


def _date(started: str) -> str:
    try:
        return f"{datetime.datetime.fromisoformat(started).astimezone():%m-%d %H:%M}"
    except ValueError:
        return "-"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list) else short(value, 30)
    return "-" if value is None else text or "-"
