"""A run's folder: what was asked for, what was measured, checkpoints, weights and figures; nothing in it is lost.

    config.toml          every option: `sigmoid-core train --config` runs it again
    environment.json     the versions, the machine
    metrics.jsonl        one JSON object a line
    checkpoints/         see `checkpoints.py`
    preprocessing.skops   how the data become numbers; `sigmoidcore.training.data.Preprocessing` reads it
    model.safetensors    the weights, slopes and shifts at the end
    diagnosis.json       what `diagnose` says of the network at the end
    diagnosis.html       the same as a page
    figures/*.png
    report.txt           what was printed at the end
    lock                 while a process works on it

docs/runs.md describes it; `read_metrics` and `read_config` read it.
"""

import datetime
import io
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy
import torch

import sigmoidcore
from sigmoidcore._files import Closing, open_no_link, write_whole
from sigmoidcore.training.data import Preprocessing
from sigmoidcore.training.runs import toml
from sigmoidcore.training.runs.checkpoints import Checkpoints, Read
from sigmoidcore.training.runs.lock import NAME as LOCK
from sigmoidcore.training.runs.lock import Lock
from sigmoidcore.training.runs.metrics import FORMAT, Metrics, read_metrics, rewind
from sigmoidcore.training.runs.network import WEIGHTS, Network, save_network
from sigmoidcore.training.runs.state import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sigmoidcore.diagnosis.diagnosis import Diagnosis

__all__ = ["FORMAT", "Config", "Run", "holds_run", "read_config", "read_metrics"]

RUNS = Path("runs")
"""Runs without a folder of their own go here."""

_CONFIG, ENVIRONMENT, METRICS, _FIGURES, _REPORT, _CHECKPOINTS = (
    "config.toml",
    "environment.json",
    "metrics.jsonl",
    "figures",
    "report.txt",
    "checkpoints",
)
PREPROCESSING = "preprocessing.skops"
_DIAGNOSIS = ("diagnosis.json", "diagnosis.html")
_OLD_CONFIG = "config.json"
"""Of format 1."""


@dataclass(frozen=True)
class Config:
    """What a run was asked for.

    Attributes:
        format: version of the folder.
        name: of the kind of run.
        options: everything that decides the run.
    """

    format: int
    name: str
    options: dict[str, Any]


class Run(Closing):
    """An open run's folder, held for this process. Make one with `Run.create` or `Run.reopen`; use it in a `with`.

    Attributes:
        folder: the run's folder.
        checkpoints: of the run.
    """

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self.checkpoints = Checkpoints(folder / _CHECKPOINTS)
        self._lock = lock
        self._certain: list[dict[str, Any]] = []
        self._preprocessing = ""
        self._metrics: Metrics | None = None

    @classmethod
    def create(
        cls, name: str, options: Mapping[str, Any], *, folder: Path | None = None, overwrite: bool = False
    ) -> Self:
        """Make the folder and write config.toml, environment.json and the first line of metrics.jsonl.

        Args:
            name: of the kind of run, such as "demo".
            options: everything that decides the run, as TOML can hold it; what is None is left out.
            folder: where; None: `runs/NAME-N` with the first free number N.
            overwrite: replace the run that the folder holds; what else is in it stays.

        Raises:
            FileExistsError: the folder is not empty, and `overwrite` was not given or the folder holds no run.
            InUseError: another process works on it.
            OSError: the folder cannot be made or written.
        """
        folder = next_free(name) if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        _check_free(folder, overwrite)
        run = cls(folder, Lock(folder))
        with run._closed_on_error():
            _check_free(folder, overwrite)  # another process may have had it meanwhile
            _remove_run(folder)
            config = {"format": FORMAT, "name": name, "options": dict(options)}
            write_whole(folder / _CONFIG, toml.written(config, _COMMENT).encode())
            run.begin()
        return run

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Take a run's folder to go on with it; `begin` or `go_on` comes next.

        Raises:
            FileNotFoundError: it holds no run.
            InUseError: another process works on it.
            OSError: the folder cannot be written.
        """
        run = cls(folder, Lock(folder))
        with run._closed_on_error():
            if not holds_run(folder) and not run.checkpoints.paths():
                raise FileNotFoundError(f"{folder} holds no run")
            run.checkpoints.clean()
        return run

    def begin(self) -> None:
        """Write environment.json and the first line of metrics.jsonl; what was in them is gone."""
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        write_whole(self.folder / ENVIRONMENT, (json.dumps(_environment(started), indent=2) + "\n").encode())
        (self.folder / METRICS).unlink(missing_ok=True)
        self._metrics = Metrics(self.folder / METRICS)
        self.log("run", format=FORMAT, name=read_config(self.folder).name, started=started)

    def go_on(self, read: Read) -> tuple[str, ...]:
        """Go on from a checkpoint: lines of metrics.jsonl that were written after it are taken back.

        Args:
            read: from `checkpoints.read()`.

        Returns:
            A sentence for everything that is damaged, and was restored from the checkpoint.

        Raises:
            OSError: the folder cannot be written.
            ValueError: the checkpoint is not one of a run.
        """
        said = list(read.damaged)
        if _bytes(self.folder / _CONFIG) != read.config:
            said.append(f"{self.folder / _CONFIG} is not what it was: it was restored from the checkpoint")
            write_whole(self.folder / _CONFIG, read.config)
        try:
            self._certain = [dict(row) for row in read.state.values["rows"]]
            damage = rewind(self.folder / METRICS, read.state.values["metrics"], self._certain)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint of {self.folder} is not one of a run: {error}") from error
        self._metrics = Metrics(self.folder / METRICS)
        self.log("resume", step=read.state.step, version=sigmoidcore.__version__)
        return (*said, damage) if damage else tuple(said)

    def log(self, kind: str, **values: Any) -> None:
        """Append a line to metrics.jsonl. Numbers that are not finite become "inf", "-inf" or "nan"."""
        assert self._metrics is not None
        self._metrics.log(kind, **values)
        if kind in ("run", "epoch"):
            self._certain.append({"kind": kind, **values})

    def save_checkpoint(self, state: State) -> Path:
        """Write a checkpoint from which this run can go on, metrics included.

        Raises:
            OSError: it cannot be written; those that were there are there still.
            ModuleNotFoundError: safetensors is not installed (extra `cli`).
        """
        assert self._metrics is not None
        values = {**state.values, "metrics": self._metrics.mark(), "rows": self._certain}
        return self.checkpoints.save(replace(state, values=values), _bytes(self.folder / _CONFIG))

    def save_weights(self, network: Network) -> Path:
        """Write model.safetensors, all of it or nothing; `network_of` makes the network again.

        Raises:
            ModuleNotFoundError: safetensors is not installed (extra `cli`).
        """
        return save_network(self.folder / WEIGHTS, replace(network, preprocessing=self._preprocessing))

    def save_preprocessing(self, preprocessing: Preprocessing) -> Path:
        """Write preprocessing.skops, all of it or nothing."""
        self._preprocessing = preprocessing.digest()
        return write_whole(self.folder / PREPROCESSING, preprocessing.to_bytes())

    def save_figure(self, name: str, figure: "Figure") -> Path:
        """Write figures/NAME.png."""
        folder = self.folder / _FIGURES
        if folder.is_symlink():
            raise OSError(f"{folder} is a link: a run's folder holds no links")
        folder.mkdir(exist_ok=True)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=150, format="png")
        return write_whole(folder / f"{name}.png", drawn.getvalue())

    def save_diagnosis(self, diagnosis: "Diagnosis") -> Path:
        """Write diagnosis.json and diagnosis.html; returns the page."""
        text, page = (self.folder / name for name in _DIAGNOSIS)
        diagnosis.to_json(text)
        return diagnosis.to_html(page)

    def save_report(self, text: str) -> Path:
        """Write report.txt."""
        return write_whole(self.folder / _REPORT, text.encode())

    def close(self) -> None:
        """Close metrics.jsonl, and let the folder go."""
        if self._metrics is not None:
            self._metrics.close()
        self._lock.release()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


_COMMENT = "To run this again: sigmoid-core train --config config.toml"


def read_config(folder: Path) -> Config:
    """What a run was asked for, from its folder of any format.

    Raises:
        FileNotFoundError: the folder holds no config.
        ValueError: it cannot be read, or its format is newer than this package.
    """
    path = folder / _CONFIG
    if path.exists():
        return as_config(_bytes(path), path)
    path = folder / _OLD_CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run")
    try:
        return _as_config(json.loads(_bytes(path)), path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no config of a run: {error}") from error


def as_config(data: bytes, path: Path) -> Config:
    """The config that a config.toml holds; nothing in it is run.

    Raises:
        ValueError: it is none; the message is one line and names `path`.
    """
    return _as_config(toml.read(data, path), path)


def holds_run(folder: Path) -> bool:
    """Whether a run left this folder."""
    try:
        read_config(folder)
    except (OSError, ValueError):
        return False
    return True


def _as_config(found: Any, path: Path) -> Config:
    if (
        not isinstance(found, dict)
        or type(found.get("format")) is not int
        or found["format"] < 1
        or not isinstance(found.get("options"), dict)
    ):
        raise ValueError(f"{path} is no config of a run: it has no format and no options")
    if found["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {found['format']}, this package reads up to {FORMAT}: install a newer sigmoid-core"
        )
    return Config(found["format"], str(found.get("name", "")), found["options"])


def _environment(started: str) -> dict[str, Any]:
    return {
        "started": started,
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


def _bytes(path: Path) -> bytes:
    """What is in a small file, or nothing if it is not there."""
    try:
        with os.fdopen(open_no_link(path, os.O_RDONLY), "rb") as file:
            return file.read(toml.LARGEST + 1)
    except FileNotFoundError:
        return b""


def _check_free(folder: Path, overwrite: bool) -> None:
    if all(_is_left_over(path) for path in folder.iterdir()):
        return
    if not holds_run(folder):
        raise FileExistsError(f"{folder} is not empty and holds no run: choose another folder")
    if not overwrite:
        raise FileExistsError(f"{folder} holds a run already: choose another folder, or overwrite it")


def _is_left_over(path: Path) -> bool:
    """Whether a process that was killed before its run began has left it."""
    return path.name == LOCK or path.name.endswith(".part")


def next_free(name: str) -> Path:
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
    Checkpoints(folder / _CHECKPOINTS).remove()
    if not (folder / _FIGURES).is_symlink():
        for figure in (folder / _FIGURES).glob("*.png"):
            figure.unlink()
    for name in (
        ENVIRONMENT,
        METRICS,
        WEIGHTS,
        PREPROCESSING,
        _REPORT,
        *_DIAGNOSIS,
        "metrics.damaged.jsonl",
        _CONFIG,  # last: until then the folder is seen to hold a run, which can be overwritten again
        _OLD_CONFIG,
    ):
        (folder / name).unlink(missing_ok=True)
