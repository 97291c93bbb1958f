"""The runs in a folder: what each was, and how it ended."""

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sigmoidcore.training.data import DataError
from sigmoidcore.training.runs.folder import METRICS, Config, read_config, read_metrics
from sigmoidcore.training.runs.lock import is_locked

ACCURACY = "accuracy"
"""The metric of a run whose data were not read yet."""


@dataclass(frozen=True)
class Summary:
    """A run."""

    name: str  # name of the folder
    folder: str  # path of the folder
    data: str  # the data set: a built-in one, or the name of a file, without its ending, or of a folder
    shape: str  # depth and width
    config: Config  # the request
    outcome: str  # finished, interrupted, failed, running, or killed (the run's metrics have no end)
    message: str  # why it failed
    steps: int  # steps done
    epochs: int  # epochs that ended
    metric: float | None  # accuracy in percent, or R2, of the epoch that is kept; None before the first
    metric_name: str  # name of the metric
    loss: float | None  # its mean training loss
    spread: float | None  # spread of the gradient profile after it
    seconds: float  # of training
    started: str  # ISO 8601, UTC

    def as_json(self) -> dict[str, Any]:
        """As JSON values; a number that is not finite is null."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Listed:
    """The content of a folder of runs."""

    runs: tuple[Summary, ...]  # sorted
    damaged: tuple[str, ...]  # a sentence for each run that cannot be read


def summary(folder: Path) -> Summary:
    """A run, from the small files of its folder; nothing in it is changed."""
    kinds = KeyError, TypeError, ValueError, OSError
    with (
        DataError.replacing("{folder} is damaged, was a file edited? {error}", *kinds, folder=folder),
        DataError.replacing(
            "{folder} does not contain a run: give a folder that `sigmoid-core train` wrote",
            FileNotFoundError,
            folder=folder,
        ),
    ):
        config = read_config(folder)
        rows = read_metrics(folder / METRICS) if (folder / METRICS).exists() else []
        return _of_rows(folder, config, rows)


def runs_in(folder: Path, order: str = "date") -> Listed:
    """All runs in a folder."""
    with (
        DataError.replacing("{folder} cannot be read: {error}; give a folder of runs", OSError, folder=folder),
        DataError.replacing(
            "there is no folder {folder}: `sigmoid-core train` makes it; or give another one",
            FileNotFoundError,
            folder=folder,
        ),
    ):
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    runs, damaged = [], []
    for path in below:
        try:
            runs += [summary(path)] if (path / "config.toml").exists() else []
        except DataError as error:
            damaged.append(str(error))
    return Listed(tuple(sorted(runs, key=lambda run: _sort_key(run, order))), tuple(damaged))


def _sort_key(run: Summary, order: str) -> tuple[Any, ...]:
    metric = -math.inf if run.metric is None or math.isnan(run.metric) else run.metric
    first: Mapping[str, Any] = {"date": run.started, "name": "", "metric": -metric, "time": run.seconds}
    return (first[order], run.name)


def _of_rows(folder: Path, config: Config, rows: Sequence[Mapping[str, Any]]) -> Summary:
    epochs = [row for row in rows if row["kind"] == "epoch"]
    end: Mapping[str, Any] = rows[-1] if rows and rows[-1]["kind"] == "end" else {}
    kept: Mapping[str, Any] = epochs[int(end.get("epoch", len(epochs))) - 1] if epochs else {}
    started = rows[0].get("started") if rows else None
    changed = datetime.datetime.fromtimestamp(os.path.getmtime(folder), datetime.UTC).isoformat()
    data = str(config.options.get("data", "?"))
    depth, width = (config.options.get(key) for key in ("depth", "width"))
    return Summary(
        name=folder.resolve().name,
        folder=str(folder),
        data=Path(data).name.partition(".")[0] or data,
        shape=f"{depth}x{width}" if depth and width else "?",
        config=config,
        outcome=str(end["outcome"]) if end else "running" if is_locked(folder) else "killed",
        message=str(end.get("message", "")),
        steps=max((int(row.get("step", 0)) for row in rows if row["kind"] in ("epoch", "end")), default=0),
        epochs=len(epochs),
        metric=float(kept["accuracy"]) if kept else None,
        metric_name=next((str(row["metric"]) for row in rows if row["kind"] == "data"), ACCURACY),
        loss=float(kept["loss"]) if kept else None,
        spread=float(kept["spread"]) if kept else None,
        seconds=float(epochs[-1]["seconds"]) if epochs else 0.0,
        started=started if isinstance(started, str) else changed,
    )
