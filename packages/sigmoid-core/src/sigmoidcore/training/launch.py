"""The way of a training from its request to its end; `fit` and `sigmoid-core train` call it.

Options, place, data, network, folder: whatever is wrong with the request is found before the folder is made.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sigmoidcore.training.choice import choose
from sigmoidcore.training.data import InputError
from sigmoidcore.training.execution import follow, lead
from sigmoidcore.training.options import Options, flag
from sigmoidcore.training.place import by_first, join_group, of_first, place_of
from sigmoidcore.training.runs.checkpoints import Checkpoint
from sigmoidcore.training.runs.folder import (
    CONFIG,
    Run,
    check_free,
    load_data,
    parse_config,
    read_config,
    refuse_changed,
)
from sigmoidcore.training.runs.weights import DamagedError
from sigmoidcore.training.session import CtrlC, threads
from sigmoidcore.language import _
from unstuck.language.errors import Stopped
from unstuck.language.terminal import printable


def run_training(
    given: Mapping[str, Any], *, config: Path | str | None = None, resume: Path | str | None = None,
    output: Path | None = None, overwrite: bool = False,
) -> Path:  # fmt: skip
    """Train, show it, and write a run's folder, which is returned (on other processes the current folder).

    Args:
        given: options by name, as texts or values; None counts as not given.
        config: a config.toml whose options are the defaults.
        resume: folder of a run to resume.
        output: folder of the new run; None: a new one in `runs`.
        overwrite: replace the run in that folder.
    """
    given = {name: value for name, value in given.items() if value is not None}
    with contextlib.ExitStack() as stack:
        run: Run | None = None
        checkpoint: Checkpoint | None = None
        try:
            if resume is None:
                options = parse_options(given, config)
                by_first(lambda: check_free(output, overwrite))
            else:
                _refuse_with_resume([*given, *(["output"] if output else [])])
                known: dict[str, Any] = {}
                if join_group()[0] == 0:
                    run, known, checkpoint = _reopened(Path(resume), stack)
                known, checkpoint = of_first((known, checkpoint))
                options = _parsed({**known, **given}, Path(resume))
            place = place_of(options.device)
            ctrl_c = stack.enter_context(CtrlC(patient=place.count > 1))
            stack.enter_context(threads(options.threads))
            data = load_data(options)
            if checkpoint is not None:
                config = Path(str(resume), CONFIG)
                remedy = _("restore it, or start a new run: sigmoid-core train --config {config}", config=config)
                refuse_changed(data, checkpoint.state.values.get("rows", ()), remedy)
            choice = choose(options, data, ctrl_c, place)
        except ValueError as error:
            raise InputError(str(error)) from error
        except KeyboardInterrupt as error:
            raise Stopped("interrupted; nothing was written", ctrl_c.code) from error
        place.total(torch.zeros(()))  # an error if another process has ended: then no folder is made
        state = None if checkpoint is None else checkpoint.state
        if place.rank != 0:
            follow(choice, place, ctrl_c, state)
            return Path.cwd()
        if run is None:
            run = Run.create(choice.folder, choice.options.to_dict(), folder=output, overwrite=overwrite)
            stack.enter_context(run)
        elif checkpoint is None:
            run.begin()
        else:
            for sentence in run.resume(checkpoint):
                print(printable(f"sigmoid-core: {sentence}"), file=sys.stderr)
        lead(choice, place, ctrl_c, state, run)
        if ctrl_c.asked:  # while the results were written: a loop over runs has to end, too
            raise Stopped("interrupted after the training; its results are in {folder}", ctrl_c.code, folder=run.folder)
        return run.folder


def parse_options(given: Mapping[str, Any], config: Path | str | None) -> Options:
    """The options of a new run: those that are given, then those of a config."""
    if config is None:
        return Options.parse(given)
    path = Path(config)

    def read() -> dict[str, Any]:
        with (
            InputError.replacing("cannot read {path}: {error}", OSError, path=path),
            InputError.replacing("{error}; give the config.toml of a run", ValueError),
            path.open("rb") as file,
        ):
            return parse_config(file.read(1 << 21), path).options

    return _parsed({**by_first(read), **given}, path)


def _parsed(given: Mapping[str, Any], source: Path) -> Options:
    try:
        return Options.parse(given)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _refuse_with_resume(given: Sequence[str]) -> None:
    for name in given:
        if name != "device":
            raise InputError(
                "--resume uses the run's own options, so {name} cannot be given: leave it out, or "
                "start a new run with --config",
                name=flag(name),
            )


def _reopened(folder: Path, stack: contextlib.ExitStack) -> tuple[Run, dict[str, Any], Checkpoint | None]:
    """A run, its options and its last checkpoint; the stack closes the run."""
    if not folder.is_dir():
        raise InputError("{folder} is not a folder: give the folder of a run", folder=folder)
    with (
        InputError.replacing("cannot resume in {folder}: {error}", DamagedError, OSError, ValueError, folder=folder),
        InputError.replacing("{error}: give the folder of a run", FileNotFoundError),
    ):
        run = stack.enter_context(Run.reopen(folder))
        checkpoint = run.checkpoints.read()
        if checkpoint is None:
            return run, read_config(folder).options, None
        return run, parse_config(checkpoint.config.encode(), folder / CONFIG).options, checkpoint
