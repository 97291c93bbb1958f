"""A run's folder: what was asked for, what was measured, the weights and the figures; written so that nothing is lost.

    config.json          every option, the versions, the machine
    metrics.jsonl        one JSON object a line, flushed line by line
    model.safetensors    the weights, slopes and shifts
    figures/*.png
    report.txt           what was printed at the end

docs/cli.md describes the lines of metrics.jsonl; `read_metrics` reads them.
"""

import datetime
import json
import math
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy
import torch
from torch import nn

import sigmoidcore
from sigmoidcore.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
"""Version of config.json and metrics.jsonl; it changes when a reader of the old one would misread the new one."""
RUNS = Path("runs")
"""Runs without a folder of their own go here."""

_CONFIG, _METRICS, _WEIGHTS, _FIGURES, _REPORT = (
    "config.json",
    "metrics.jsonl",
    "model.safetensors",
    "figures",
    "report.txt",
)
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class Run:
    """An open run's folder. Make one with `Run.create`; leave it, or use it in a `with` statement.

    Attributes:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._metrics = (folder / _METRICS).open("a", encoding="utf-8")

    @classmethod
    def create(
        cls, name: str, options: Mapping[str, Any], *, folder: Path | None = None, overwrite: bool = False
    ) -> Self:
        """Make the folder and write config.json and the first line of metrics.jsonl.

        Args:
            name: of the kind of run, such as "demo".
            options: everything that decides the run, as JSON can hold it.
            folder: where; None: `runs/NAME-N` with the first free number N.
            overwrite: replace the run that the folder holds; what else is in it stays.

        Raises:
            FileExistsError: the folder is not empty, and `overwrite` was not given or the folder holds no run.
            OSError: the folder cannot be made or written.
        """
        folder = _next_free(name) if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            if not holds_run(folder):
                raise FileExistsError(f"{folder} is not empty and holds no run: choose another folder")
            if not overwrite:
                raise FileExistsError(f"{folder} holds a run already: choose another folder, or overwrite it")
            _remove_run(folder)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        config = {
            "format": FORMAT,
            "name": name,
            "started": started,
            "options": dict(options),
            "versions": {
                "sigmoid-core": sigmoidcore.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": numpy.__version__,
            },
            "machine": {
                "system": platform.platform(),
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
            },
        }
        write_whole(folder / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        run = cls(folder)
        run.log("run", format=FORMAT, name=name, started=started)
        return run

    def log(self, kind: str, **values: Any) -> None:
        """Append a line to metrics.jsonl, flushed. Numbers that are not finite become "inf", "-inf" or "nan"."""
        line = json.dumps({"kind": kind, **{key: _as_json(value) for key, value in values.items()}}, allow_nan=False)
        self._metrics.write(line + "\n")
        self._metrics.flush()

    def save_weights(self, model: nn.Module, **shape: int) -> Path:
        """Write model.safetensors, all of it or nothing; `shape` goes into its metadata, to build the model again.

        Raises:
            ModuleNotFoundError: safetensors is not installed (extra `cli`).
        """
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        metadata = {"format": "pt", **{key: str(value) for key, value in shape.items()}}
        return write_whole(self.folder / _WEIGHTS, save(tensors, metadata=metadata))

    def save_figure(self, name: str, figure: "Figure") -> Path:
        """Write figures/NAME.png."""
        path = self.folder / _FIGURES / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=150)
        return path

    def save_report(self, text: str) -> Path:
        """Write report.txt."""
        return write_whole(self.folder / _REPORT, text.encode())

    def close(self) -> None:
        """Close metrics.jsonl."""
        self._metrics.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; numbers that are not finite are numbers again.

    A last line that a killed run left unfinished is left out.

    Raises:
        ValueError: a line is no JSON object, or the format is newer than this package.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON: {line[:60]!r}; was the file edited?") from error
        rows.append({key: value if key == "kind" else _from_json(value) for key, value in row.items()})
    if rows and rows[0].get("format", FORMAT) > FORMAT:
        raise ValueError(
            f"{path} has format {rows[0]['format']}, this package reads up to {FORMAT}: install a newer sigmoid-core"
        )
    return rows


def holds_run(folder: Path) -> bool:
    """Whether a run left this folder."""
    try:
        return "format" in json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _next_free(name: str) -> Path:
    """Make and return `runs/NAME-N`; two runs that start at once get a number each."""
    RUNS.mkdir(parents=True, exist_ok=True)
    numbers = [int(found[1]) for p in RUNS.iterdir() if (found := re.fullmatch(re.escape(name) + r"-(\d+)", p.name))]
    number = max(numbers, default=0) + 1
    while True:
        folder = RUNS / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _remove_run(folder: Path) -> None:
    for name in (_CONFIG, _METRICS, _WEIGHTS, _REPORT):
        (folder / name).unlink(missing_ok=True)
    for figure in (folder / _FIGURES).glob("*.png"):
        figure.unlink()


def _as_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    return [_from_json(item) for item in value] if isinstance(value, list) else value
