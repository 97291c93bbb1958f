"""`train --config` and `train --resume`: options that a file gives, under the rules of those that are typed."""

import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from sigmoidcore.cli.session import bad_input
from sigmoidcore.training import toml
from sigmoidcore.training.checkpoints import DamagedError, Read
from sigmoidcore.training.lock import InUseError
from sigmoidcore.training.memory import memory
from sigmoidcore.training.processes import Processes
from sigmoidcore.training.run import Config, Run, as_config, read_config

NOT_OPTIONS = ("config", "resume", "output", "overwrite", "shard", "help")
"""What decides where a run goes, and not what it is."""


@dataclass(frozen=True)
class Resumed:
    """A run that goes on.

    Attributes:
        run: its folder, held for this process; None on a process that is not the first.
        read: its last checkpoint, or None: it was stopped before the first.
    """

    run: Run | None
    read: Read | None


def options_of(context: typer.Context) -> dict[str, Any]:
    """All options of a command that decide the run, as TOML can hold them."""
    given = context.params
    names = [p.name for p in context.command.params if p.name in given and p.name not in NOT_OPTIONS]
    return {
        name: getattr(given[name], "value", str(given[name]) if isinstance(given[name], Path) else given[name])
        for name in names
    }


def take_config(context: typer.Context, file: Path | None) -> Path | None:
    """Let a config's options be the defaults of those that are not typed: the callback of --config.

    Raises:
        Stopped: it cannot be read, or has an option that the command has not.
    """
    if file is not None:
        _set_defaults(context, Processes().by_first(lambda: _config_of(file)), str(file))
    return file


def _config_of(file: Path) -> Config:
    try:
        with os.fdopen(os.open(file, os.O_RDONLY), "rb") as opened:
            return as_config(opened.read(toml.LARGEST + 1), file)
    except OSError as error:
        raise bad_input(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise bad_input(f"{error}; give the config.toml of a run") from error


def take_resume(context: typer.Context, folder: Path | None) -> Path | None:
    """Take a run's folder, its last sound checkpoint and its options: the callback of --resume.

    Raises:
        Stopped: it holds no run that can go on, or another process works on it.
    """
    if folder is not None:
        runs: list[Run] = []
        try:
            config, read = Processes().by_first(lambda: _reopened(folder, context, runs))
            _set_defaults(context, config, str(folder))
        except BaseException:  # the context is not open yet, and nobody else closes the run
            for run in runs:
                run.close()
            raise
        context.obj = Resumed(runs[0] if runs else None, read)
    return folder


def _reopened(folder: Path, context: typer.Context, runs: list[Run]) -> tuple[Config, Read | None]:
    """What a run's folder holds; `runs` gets the run, which is closed with the context."""
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
    context.call_on_close(run.close)
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


def refuse_typed(context: typer.Context) -> None:
    """With --resume, the run's own options count: only what lets code be run may be typed, and on which device.

    Raises:
        Stopped: something else was typed.
    """
    for name in context.params:
        if name not in ("resume", "model", "device", "shard") and is_typed(context, name):
            raise bad_input(
                f"--resume goes on with the run's own options, so --{name.replace('_', '-')} cannot be given: leave it "
                "out, or begin a new run with --config"
            )


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _set_defaults(context: typer.Context, config: Config, where: str) -> None:
    kinds = _kinds()
    for name, value in config.options.items():
        if name not in kinds:
            raise bad_input(f"{where} has the option {name[:60]!r}, which sigmoid-core train has not: take it out")
        if not _fits(kinds[name], value):
            raise bad_input(f"{where} has {repr(value)[:60]} for {name}, which is not of its type: mend it")
    context.default_map = {**(context.default_map or {}), **config.options}


def _kinds() -> dict[str, Any]:
    """The types of the options of train."""
    from sigmoidcore.cli.train import train  # which imports this module

    hints = typing.get_type_hints(train)
    return {name: kind for name, kind in hints.items() if name not in (*NOT_OPTIONS, "context", "return")}


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value of TOML is of the type that an option takes; no value is silently another one."""
    kinds = [k for k in typing.get_args(kind) if k is not type(None)] if isinstance(kind, types.UnionType) else [kind]
    if typing.get_origin(kinds[0]) is list:
        return isinstance(value, list) and all(_fits(typing.get_args(kinds[0])[0], item) for item in value)
    if kinds[0] is float:
        return type(value) in (int, float)
    return type(value) is (kinds[0] if kinds[0] in (bool, int) else str)
