"""A training that a file tells of: the config of a run that is made again, the folder of one that goes on."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmoidcore.training.data import memory
from sigmoidcore.training.options import OPTIONS, typed
from sigmoidcore.training.processes import Processes
from sigmoidcore.training.runs import toml
from sigmoidcore.training.runs.checkpoints import DamagedError, Read
from sigmoidcore.training.runs.folder import Config, Run, as_config, read_config
from sigmoidcore.training.runs.lock import InUseError
from sigmoidcore.training.runs.session import bad_input

WITH_RESUME = ("model", "device", "shard")
"""What may be said when a run goes on: what lets code be run, and where."""


@dataclass(frozen=True)
class Resumed:
    """A run that goes on.

    Attributes:
        options: of the run, those that its config has.
        run: its folder, held for this process; None on a process that is not the first.
        read: its last checkpoint, or None: it was stopped before the first.
    """

    options: dict[str, Any]
    run: Run | None
    read: Read | None

    def close(self) -> None:
        """Let the folder go."""
        if self.run is not None:
            self.run.close()


def options_of(file: Path) -> dict[str, Any]:
    """The options that a config has.

    Raises:
        Stopped: it cannot be read, or has an option that there is not; with code 2.
    """
    return _options(Processes().by_first(lambda: _config_of(file)), str(file))


def resumed(folder: Path) -> Resumed:
    """A run's folder, its last sound checkpoint and its options; to be closed.

    Raises:
        Stopped: it holds no run that can go on, or another process works on it; with code 2.
    """
    runs: list[Run] = []
    try:
        config, read = Processes().by_first(lambda: _reopened(folder, runs))
        return Resumed(_options(config, str(folder)), runs[0] if runs else None, read)
    except BaseException:
        for run in runs:
            run.close()
        raise


def refuse(given: Iterable[str]) -> None:
    """With --resume, the run's own options count.

    Args:
        given: what was said beside it.

    Raises:
        Stopped: something that may not be; with code 2.
    """
    for name in given:
        if name not in WITH_RESUME:
            raise bad_input(
                f"--resume goes on with the run's own options, so {typed(name)} cannot be given: leave it out, or "
                "begin a new run with --config"
            )


def _config_of(file: Path) -> Config:
    try:
        with os.fdopen(os.open(file, os.O_RDONLY), "rb") as opened:
            return as_config(opened.read(toml.LARGEST + 1), file)
    except OSError as error:
        raise bad_input(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise bad_input(f"{error}; give the config.toml of a run") from error


def _reopened(folder: Path, runs: list[Run]) -> tuple[Config, Read | None]:
    """What a run's folder holds; `runs` gets the run."""
    if not folder.is_dir():
        raise bad_input(f"{folder} is no folder: give that of a run")
    try:
        run = Run.reopen(folder)
    except FileNotFoundError as error:
        raise bad_input(f"{error}: give the folder of one") from error
    except InUseError as error:
        raise bad_input(str(error)) from error
    except OSError as error:
        raise bad_input(f"cannot go on in {folder}: {error.strerror or error}") from error
    runs.append(run)
    try:
        read = run.checkpoints.read(memory())
        config = read_config(folder) if read is None else as_config(read.config, folder / "config.toml")
    except (DamagedError, OSError, ValueError) as error:
        raise bad_input(f"cannot go on in {folder}: {error}") from error
    if config.format < 2 or config.name == "demo":
        what = "was made by an older version, without checkpoints" if config.format < 2 else "is one of the demo"
        raise bad_input(f"the run in {folder} {what}: begin a new one")
    return config, read


def _options(config: Config, where: str) -> dict[str, Any]:
    for name, value in config.options.items():
        if name not in OPTIONS:
            raise bad_input(f"{where} has the option {name[:60]!r}, which sigmoid-core train has not: take it out")
        if not _fits(OPTIONS[name].kind, value):
            raise bad_input(f"{where} has {repr(value)[:60]} for {name}, which is not of its type: mend it")
    return dict(config.options)


def _fits(kind: type, value: Any) -> bool:
    """Whether a value of TOML is of the type that an option takes; no value is silently another one."""
    if kind is list:
        return isinstance(value, list) and all(type(item) is str for item in value)
    return type(value) in (int, float) if kind is float else type(value) is kind
