"""The runs below a folder, read one by one: what each was, how it ended, and how they differ."""

import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sigmoidcore.training.data import DataError, Kind, Preprocessing, short, task
from sigmoidcore.training.runs.folder import ENVIRONMENT, METRICS, PREPROCESSING, Config, read_config, read_metrics
from sigmoidcore.training.runs.lock import is_held

ORDERS = ("date", "name", "metric", "time")
"""What runs can be sorted by."""


@dataclass(frozen=True)
class Summary:
    """One run.

    Attributes:
        folder: of the run.
        config: what it was asked for.
        outcome: finished, interrupted, failed, running, or killed: a run that says nothing of its end.
        message: why it failed.
        steps: that were done.
        epochs: that ended.
        metric: accuracy in percent, or R2, after the last epoch; None before the first.
        metric_name: which.
        best: the best of all epochs.
        loss: mean training loss of the last epoch.
        spread: after the last epoch.
        seconds: of training.
        started: ISO 8601, UTC.
    """

    folder: Path
    config: Config
    outcome: str
    message: str
    steps: int
    epochs: int
    metric: float | None
    metric_name: str
    best: float | None
    loss: float | None
    spread: float | None
    seconds: float
    started: str

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @property
    def data(self) -> str:
        """What it has learnt from: a built-in set, or the name of a file, without its ending, or of a folder."""
        given = str(self.config.options.get("data", "digits" if self.config.name == "demo" else "?"))
        return Path(given).name.partition(".")[0] or given

    @property
    def shape(self) -> str:
        """Depth and width."""
        depth, width = (self.config.options.get(key) for key in ("depth", "width"))
        return f"{depth}x{width}" if depth and width else "?"

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it; what is not finite is null."""
        values = asdict(self) | {
            "folder": str(self.folder),
            "config": {"name": self.config.name, "format": self.config.format, "options": self.config.options},
            "name": self.name,
            "data": self.data,
            "shape": self.shape,
        }
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@dataclass(frozen=True)
class Listed:
    """What is in a folder of runs.

    Attributes:
        runs: in the order that was asked for.
        damaged: a sentence for each run that cannot be read.
        foreign: names of folders that hold no run.
    """

    runs: tuple[Summary, ...]
    damaged: tuple[str, ...]
    foreign: tuple[str, ...]


def summary(folder: Path) -> Summary:
    """A run, from the small files of its folder; nothing in it is changed.

    Raises:
        DataError: it holds no run, or one that is damaged.
    """
    try:
        config = read_config(folder)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no run: give a folder that `sigmoid-core train` wrote") from error
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or short(error)}") from error
    except ValueError as error:
        raise DataError(f"{error}; was the file edited?") from error
    try:
        rows = read_metrics(folder / METRICS)
    except FileNotFoundError:
        rows = []
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged: {short(error, 200)}") from error
    try:
        return _of_rows(folder, config, rows)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder} is damaged: {METRICS} has a line that no run has written ({short(error)})"
        ) from error


def runs_in(folder: Path, order: str = "date") -> Listed:
    """All runs right below a folder.

    Args:
        folder: such as `runs`.
        order: of `ORDERS`: the oldest first, by name, the best first, or the quickest first.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except FileNotFoundError as error:
        raise DataError(f"there is no folder {folder}: `sigmoid-core train` makes it; or give another one") from error
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or short(error)}; give a folder of runs") from error
    runs, damaged, foreign = [], [], []
    for path in below:
        if not ((path / "config.toml").exists() or (path / "config.json").exists()):
            foreign.append(path.name)
            continue
        try:
            runs.append(summary(path))
        except DataError as error:
            damaged.append(str(error))
    return Listed(tuple(sorted(runs, key=lambda run: _place(run, order))), tuple(damaged), tuple(foreign))


def differing(runs: Sequence[Summary]) -> dict[str, tuple[Any, ...]]:
    """The options in which runs differ: of each its value in every run, None where it has none."""
    names = dict.fromkeys(name for run in runs for name in run.config.options)
    found = {name: tuple(run.config.options.get(name) for run in runs) for name in names}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def _place(run: Summary, order: str) -> tuple[Any, ...]:
    metric = -math.inf if run.metric is None or math.isnan(run.metric) else run.metric
    first: Mapping[str, Any] = {"date": run.started, "name": "", "metric": -metric, "time": run.seconds}
    return (first[order], run.name)


def _of_rows(folder: Path, config: Config, rows: Sequence[Mapping[str, Any]]) -> Summary:
    epochs = [row for row in rows if row["kind"] == "epoch"]
    if config.name == "demo":  # it trains two networks, and the second one is ours
        epochs = [row for row in epochs if row["network"] == "Sigmoid Core"]
    ends = [row for row in rows if row["kind"] == "end"]
    last = epochs[-1] if epochs else {}
    ended = bool(ends) and rows[-1]["kind"] == "end"
    outcome = str(rows[-1]["outcome"]) if ended else "running" if is_held(folder) else "killed"
    steps = [row.get("step", 0) for row in rows if row["kind"] in ("epoch", "end")]
    reached = [float(row["accuracy"]) for row in epochs]
    return Summary(
        folder,
        config,
        outcome,
        str(rows[-1].get("message", "")) if ended else "",
        int(max(steps, default=0)),
        len(epochs),
        reached[-1] if reached else None,
        _metric_name(folder),
        max(reached, default=None),
        float(last["loss"]) if epochs else None,
        float(last["spread"]) if epochs else None,
        float(last["seconds"]) if epochs else 0.0,
        _started(folder, rows),
    )


def _started(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    if rows and isinstance(rows[0].get("started"), str):
        return str(rows[0]["started"])
    try:
        return str(json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["started"])
    except (OSError, ValueError, KeyError, TypeError):  # of format 1, or not there: the folder's own date
        return datetime.datetime.fromtimestamp(os.path.getmtime(folder), datetime.UTC).isoformat()


def _metric_name(folder: Path) -> str:
    try:
        content = (folder / PREPROCESSING).read_bytes()
        return task(Preprocessing.from_bytes(content).target.kind).metric_name
    except (OSError, DataError):  # of an older version: these learnt classes
        return task(Kind.CLASSES).metric_name
