"""A run's folder: options, metrics, checkpoints, weights and figures; nothing in it is lost.

config.toml          all options: `sigmoid-core train --config` runs it again
environment.json     versions and machine
metrics.jsonl        one JSON object per line
checkpoints/         see `checkpoints.py`
preprocessing.skops  how data become numbers; `sigmoidcore.training.data.Preprocessing` reads it
model.safetensors    the last weights, slopes and shifts
diagnosis.json       the diagnosis of the last network
diagnosis.html       the same as a page
figures/*.png
report.txt           the summary that was printed at the end
lock                 while a process uses the folder
"""

import contextlib
import datetime
import itertools
import json
import os
import platform
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy
import torch

import sigmoidcore
from sigmoidcore.training.data import Data, DataError, InputError, SplitError, changes, load
from sigmoidcore.training.options import Options
from sigmoidcore.training.runs.checkpoints import Checkpoint, Checkpoints
from sigmoidcore.training.runs.lock import NAME as LOCK
from sigmoidcore.training.runs.lock import Lock
from sigmoidcore.training.runs.metrics import FORMAT, append, mark, read_metrics, rewind
from sigmoidcore.training.runs.state import State
from sigmoidcore.training.runs.weights import WEIGHTS
from unstuck.files import read_regular, write_file
from sigmoidcore.language import _

__all__ = ["FORMAT", "Config", "Run", "contains_run", "read_config", "read_metrics"]

RUNS = Path("runs")
"""Folder of runs without a folder name."""
CONFIG, ENVIRONMENT, METRICS = "config.toml", "environment.json", "metrics.jsonl"
PREPROCESSING, REPORT = "preprocessing.skops", "report.txt"
DIAGNOSIS = ("diagnosis.json", "diagnosis.html")
FILES = (ENVIRONMENT, METRICS, WEIGHTS, PREPROCESSING, REPORT, *DIAGNOSIS, "metrics.damaged.jsonl", CONFIG)
"""All files of a run, the config last: until it is removed, the folder contains a run, which can be overwritten."""
VALIDATION_SIZE = 0.1
"""Default fraction of the training samples for validation."""
_LARGEST_CONFIG = 1 << 20
_MOST_DOTS = 100
"""In a line of a config. For every part of a dotted key, tomllib keeps a list of all parts before it."""
_COMMENT = "# To run this again: sigmoid-core train --config config.toml\n"


@dataclass(frozen=True)
class Config:
    """The request for a run."""

    format: int  # version of the folder
    name: str  # as in the name of its folder
    options: dict[str, Any]  # everything that decides the run


class Run:
    """An open run folder, locked for this process. Make one with `Run.create` or `Run.reopen`; use it in a `with`."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self._lock = lock
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def create(
        cls, name: str, options: Mapping[str, Any], *, folder: Path | None = None, overwrite: bool = False
    ) -> Self:
        """Make the folder and write config.toml, environment.json and the first line of metrics.jsonl."""
        check_free(folder, overwrite)
        try:
            folder = next_free(name) if folder is None else folder
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder, Lock(folder))
            with contextlib.ExitStack() as stack:
                stack.callback(run.close)
                check_free(folder, overwrite)  # another process may have created a run in the meantime
                _remove_run(folder)
                import tomli_w  # in the extra cli, which reading a run does not need

                given = {key: value for key, value in options.items() if value is not None}
                content = {"format": FORMAT, "name": name, "options": given}
                write_file(folder / CONFIG, (_COMMENT + tomli_w.dumps(content)).encode())
                run.begin()
                stack.pop_all()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                "cannot write {folder}: {reason}; give another --output", folder=error.filename or folder, reason=reason
            ) from error
        return run

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Lock a run's folder to resume it; `begin` or `resume` comes next."""
        run = cls(folder, Lock(folder))
        if not contains_run(folder) and not run.checkpoints.paths():
            run.close()
            raise FileNotFoundError(_("{folder} does not contain a run", folder=folder))
        run.checkpoints.clean()
        return run

    def begin(self) -> None:
        """Write environment.json and start a new metrics.jsonl."""
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        content = {"started": started, **environment()}
        write_file(self.folder / ENVIRONMENT, (json.dumps(content, indent=2) + "\n").encode())
        (self.folder / METRICS).unlink(missing_ok=True)
        self.log("run", format=FORMAT, name=read_config(self.folder).name, started=started)

    def resume(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Resume from a checkpoint, without later lines of metrics.jsonl; sentences about files that were restored."""
        said = list(checkpoint.damaged)
        if _bytes(self.folder / CONFIG) != checkpoint.config.encode():
            said.append(_("{path} has changed: it was restored from the checkpoint", path=self.folder / CONFIG))
            write_file(self.folder / CONFIG, checkpoint.config.encode())
        try:
            self._rows = [dict(row) for row in checkpoint.state.values["rows"]]
            damage = rewind(self.folder / METRICS, checkpoint.state.values["metrics"], self._rows)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                _("the checkpoint of {folder} is not one of a run: {error}", folder=self.folder, error=error)
            ) from error
        self.log("resume", step=checkpoint.state.step, version=sigmoidcore.__version__)
        return (*said, damage) if damage else tuple(said)

    def log(self, kind: str, **values: Any) -> None:
        """Append a line to metrics.jsonl. Numbers that are not finite become "inf", "-inf" or "nan"."""
        append(self.folder / METRICS, kind, **values)
        if kind in ("run", "data", "epoch"):
            self._rows.append({"kind": kind, **values})

    def save_checkpoint(self, state: State) -> Path:
        """Write a checkpoint from which this run can resume, metrics included."""
        try:
            values = {**state.values, "metrics": mark(self.folder / METRICS), "rows": self._rows}
            config = _bytes(self.folder / CONFIG).decode(errors="replace")
            return self.checkpoints.save(replace(state, values=values), config)
        except OSError as error:
            raise OSError(
                _(
                    "the checkpoint of step {step} cannot be written ({error}); the earlier ones are "
                    "kept: free some space, then resume with sigmoid-core train --resume {folder}",
                    step=state.step,
                    error=error.strerror or error,
                    folder=self.folder,
                )
            ) from error

    def close(self) -> None:
        """Release the folder."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_free(folder: Path | None, overwrite: bool) -> None:
    """Refuse a folder in which a run cannot be made."""
    if folder is None:
        return
    existing = check_writable(folder)
    # A process that was killed before its run began may have left a lock and parts of files.
    if existing != folder or all(path.name == LOCK or path.name.endswith(".part") for path in folder.iterdir()):
        return
    if not contains_run(folder):
        raise InputError("{folder} is not empty and does not contain a run: give another --output", folder=folder)
    if not overwrite:
        raise InputError("{folder} contains a run: give another --output, or --overwrite to replace it", folder=folder)


def check_writable(folder: Path) -> Path:
    """The folder, or the first one above it that exists; an InputError if nothing can be written there."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(
            "cannot write {folder}: {name} is a file; give another --output", folder=folder, name=existing.name
        )
    if not os.access(existing, os.W_OK):
        raise InputError("cannot write {folder}: Permission denied; give another --output", folder=folder)
    return existing


def refuse_changed(data: Data, rows: Iterable[Mapping[str, Any]], remedy: str) -> None:
    """Raise a DataError if the data differ from the "data" row of a run's metrics."""
    known = next((row.get("columns") for row in rows if row["kind"] == "data"), None)
    found = changes(known, data.fingerprint) if isinstance(known, dict) else (_("what it was is unknown"),)
    if found:
        raise DataError(
            "{name} has changed since the training ({found}): {remedy}",
            name=data.name,
            found=_("; ").join(found),
            remedy=remedy,
        )


def read_config(folder: Path) -> Config:
    """The request for a run, from its folder."""
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(_("{folder} does not contain a run", folder=folder))
    return parse_config(_bytes(path), path)


def parse_config(data: bytes, path: Path) -> Config:
    """The config in a TOML file; nothing in it is run."""
    if len(data) > _LARGEST_CONFIG:
        raise ValueError(_("{path} is too large for a config", path=path))
    try:
        if any(line.count(b".") > _MOST_DOTS for line in data.split(b"\n")):
            raise tomllib.TOMLDecodeError(_("a line has more than {count} dots", count=_MOST_DOTS))
        found = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError, OverflowError) as error:
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        raise ValueError(_("{path} is not TOML: {reason}", path=path, reason=reason)) from error
    version, options = found.get("format"), found.get("options")
    if type(version) is not int or version < 1 or not isinstance(options, dict):
        raise ValueError(_("{path} is not the config of a run: it has no format and no options", path=path))
    if version > FORMAT:
        raise ValueError(
            _(
                "{path} has format {version}, this package reads up to {format}: install a newer sigmoid-core",
                path=path,
                version=version,
                format=FORMAT,
            )
        )
    return Config(version, str(found.get("name", "")), options)


def contains_run(folder: Path) -> bool:
    """Whether a folder contains a run."""
    try:
        read_config(folder)
    except (OSError, ValueError):
        return False
    return True


def run_of(path: Path) -> Path | None:
    """The folder of the run that a file belongs to, or would belong to with this name; None for any other file."""
    real = path.resolve()
    for folder in real.parents:
        if (folder / CONFIG).is_file() and (folder / METRICS).is_file():
            own = (*FILES, LOCK, "checkpoints", "figures")
            return folder if real.relative_to(folder).parts[0].casefold() in own else None
    return None


def data_of(options: Mapping[str, Any]) -> Data:
    """The data set of a run with these options, split in the same way."""
    names = ("data", "target", "drop", "kind", "test_size", "validation_size", "patience", "seed")
    return load_data(Options.parse({name: options[name] for name in names if name in options}))


def load_data(options: Options) -> Data:
    """The data set that the options name; all but the digits have a validation part unless it is declined."""
    share = options.validation_size
    if share is not None:
        return _loaded(options, share)
    try:
        return _loaded(options, VALIDATION_SIZE if options.patience or options.data != "digits" else 0.0)
    except SplitError:
        data = _loaded(options, 0.0)
        return replace(data, notes=(*data.notes, _("no validation part: a class has too few samples")))


def _loaded(options: Options, share: float) -> Data:
    return load(
        options.data, target=options.target, drop=options.drop, kind=options.kind, test_size=options.test_size,
        validation_size=share, seed=options.seed,
    )  # fmt: skip


def next_free(name: str) -> Path:
    """Make and return `runs/NAME-N`; two runs that start at once get different numbers."""
    RUNS.mkdir(parents=True, exist_ok=True)
    numbers = [int(found[1]) for p in RUNS.iterdir() if (found := re.fullmatch(re.escape(name) + r"-(\d+)", p.name))]
    for number in itertools.count(max(numbers, default=0) + 1):
        with contextlib.suppress(FileExistsError):
            (RUNS / f"{name}-{number}").mkdir()
            break
    return RUNS / f"{name}-{number}"


def environment() -> dict[str, Any]:
    """Versions and machine."""
    versions = {"sigmoid-core": sigmoidcore.__version__, "python": platform.python_version()}
    versions |= {"torch": torch.__version__, "numpy": numpy.__version__}
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    return {"versions": versions, "machine": {**machine, "threads": torch.get_num_threads()}}


def _bytes(path: Path) -> bytes:
    """Content of a small file, or nothing if it does not exist."""
    try:
        return read_regular(path, _LARGEST_CONFIG + 1)
    except FileNotFoundError:
        return b""


def _remove_run(folder: Path) -> None:
    Checkpoints(folder / "checkpoints").remove()
    if not (folder / "figures").is_symlink():
        for figure in (folder / "figures").glob("*.png"):
            figure.unlink()
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
