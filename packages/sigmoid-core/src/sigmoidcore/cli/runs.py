"""`sigmoid-core runs`: a list of runs."""

import datetime
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from sigmoidcore.cli.common import print_json
from sigmoidcore.training.data import DataError
from sigmoidcore.training.display import Screen, clock, number, percent
from sigmoidcore.training.runs.folder import RUNS
from sigmoidcore.training.runs.listing import ACCURACY, Listed, Summary, runs_in, summary
from unstuck.language import _, english

FOLDER = typer.Argument(metavar="FOLDER", show_default="runs", help="A folder of runs, or of one run.")
SORT = typer.Option("--sort", help="By date (latest last), name, metric (best first) or time.")
OPTIONAL = ("data", "steps", "spread", "shape", "time")
"""Columns that a narrow terminal does not show, the first ones first."""


def runs(
    folder: Annotated[Path, FOLDER] = RUNS,
    sort: Annotated[Literal["date", "name", "metric", "time"], SORT] = "date",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List the runs in a folder."""
    listing = _runs_of(folder, sort)
    if as_json:
        found = [run.as_json() for run in listing.runs]
        content = {"runs": found, "damaged": [english(sentence) for sentence in listing.damaged]}
        print_json(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _list(Screen.of_stdout(), listing, folder)
    return 0


def _runs_of(folder: Path, sort: str) -> Listed:
    """The run in a folder, or the runs in its subfolders."""
    try:
        return Listed((summary(folder),), ())
    except DataError:
        if (folder / "config.toml").exists():
            raise
    return runs_in(folder, sort)


def _list(screen: Screen, listing: Listed, folder: Path) -> None:
    if listing.runs:
        screen.console.print(screen.records([_cells(run) for run in listing.runs], OPTIONAL, _heads()))
    else:
        screen.say(_("{folder} contains no run: `sigmoid-core train` makes one", folder=folder))
    for sentence in listing.damaged:
        screen.say(_("left out: {reason}", reason=sentence))


def _heads() -> dict[str, str]:
    """The columns in the user's language."""
    return {
        "run": _("run"), "data": _("data"), "shape": _("shape"), "outcome": _("outcome"), "steps": _("steps"),
        "metric": _("metric"), "spread": _("spread {spread}", spread="").rstrip(), "time": _("time"), "date": _("date"),
    }  # fmt: skip


def _cells(run: Summary) -> dict[str, str]:
    ends = {
        "finished": _("finished"), "interrupted": _("interrupted"), "failed": _("failed"), "running": _("running"),
        "killed": _("killed"),
    }  # fmt: skip
    outcome = ends.get(run.outcome, run.outcome)
    return {
        "run": run.name, "data": run.data, "shape": run.shape, "outcome": outcome, "steps": f"{run.steps:,}",
        "metric": _metric(run), "spread": "-" if run.spread is None else number(run.spread),
        "time": clock(run.seconds), "date": _date(run.started),
    }  # fmt: skip


def _metric(run: Summary) -> str:
    if run.metric is None:
        return "-"
    return percent(run.metric) if run.metric_name == ACCURACY else f"{run.metric_name} {run.metric:.3f}"


def _date(started: str) -> str:
    try:
        return f"{datetime.datetime.fromisoformat(started).astimezone():%m-%d %H:%M}"
    except ValueError:
        return "-"
