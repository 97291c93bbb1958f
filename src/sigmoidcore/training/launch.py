"""The start of a training: options, data, network, place and folder; `fit` and `sigmoid-core train` call it."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sigmoidcore.training import session, tensorboard
from sigmoidcore.training.choice import Choice, choose
from sigmoidcore.training.display import Screen
from sigmoidcore.training.execution import follow, lead
from sigmoidcore.training.options import OptionError, Options, flag
from sigmoidcore.training.place import Place, by_first, join, of_first, place_of
from sigmoidcore.training.runs.checkpoints import Checkpoint, DamagedError
from sigmoidcore.training.runs.folder import Run, create_run, load_data, parse_config, read_config
from sigmoidcore.training.runs.lock import InUseError
from sigmoidcore.training.session import CtrlC, bad_input

WITH_RESUME = ("model", "device")
"""Options that may be given when a run is resumed: the user's own code, and the device."""


def run_training(
    given: Mapping[str, Any], *, config: Path | str | None = None, resume: Path | str | None = None,
    output: Path | None = None, overwrite: bool = False,
) -> Path:  # fmt: skip
    """Train, show it, and write a run's folder.

    Args:
        given: options by name, as texts or values; None counts as not given.
        config: a config.toml whose options are the defaults.
        resume: folder of a run to resume.
        output: folder of the new run; None: a new one in `runs`.
        overwrite: replace the run in that folder.

    Returns:
        The run's folder; on other processes than the first, the current folder.

    Raises:
        Stopped: it is impossible, was interrupted, or failed, with the exit code.
    """
    given = {name: value for name, value in given.items() if value is not None}
    with contextlib.ExitStack() as stack:
        run: Run | None = None
        known: dict[str, Any] = {}
        checkpoint: Checkpoint | None = None
        if resume is not None:
            _refuse_with_resume([*given, *(["output"] if output else [])])
            first = join()[0] == 0
            run, known, checkpoint = _reopened(Path(resume), stack) if first else (None, {}, None)
            known, checkpoint = of_first((known, checkpoint))
            options = _parse({**known, **given}, str(resume))
        else:
            options = parse_options(given, config)
        where = _place(options)
        ctrl_c = stack.enter_context(CtrlC(patient=where.count > 1))
        stack.enter_context(session.threads(options.threads))
        choice = _choice(options, ctrl_c, run_users_code="model" in given)
        where.total(torch.zeros(()))  # an error if another process has ended: then no folder is made
        state = None if checkpoint is None else checkpoint.state
        if where.rank != 0:
            follow(choice, where, ctrl_c, state)
            return Path.cwd()
        if run is None:
            run = stack.enter_context(create_run(choice.folder, choice.options.to_dict(), output, overwrite))
        else:
            _resume(run, checkpoint)
        lead(choice, where, ctrl_c, state, run, Screen.of_stdout())
        return run.folder


def parse_options(given: Mapping[str, Any], config: Path | str | None) -> Options:
    """The options of a new run: those that are given, then those of a config."""
    if config is None:
        return _parse(given)
    path = Path(config)

    def read() -> dict[str, Any]:
        try:
            with path.open("rb") as file:
                return parse_config(file.read(1 << 21), path).options
        except OSError as error:
            raise bad_input(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise bad_input(f"{error}; give the config.toml of a run") from error

    return _parse({**by_first(read), **given}, str(path))


def _parse(given: Mapping[str, Any], source: str = "") -> Options:
    try:
        options = Options.parse(given)
    except OptionError as error:
        raise bad_input(f"{source}: {error}" if source else str(error)) from error
    if options.accumulate > options.batch_size:
        raise bad_input(
            f"--accumulate {options.accumulate} is more than the {options.batch_size} samples of a batch: lower it"
        )
    if options.tensorboard:
        tensorboard.check_installed()
    return options


def _refuse_with_resume(given: Sequence[str]) -> None:
    for name in given:
        if name not in WITH_RESUME:
            raise bad_input(
                f"--resume uses the run's own options, so {flag(name)} cannot be given: leave it out, or start a new "
                "run with --config"
            )


def _reopened(folder: Path, stack: contextlib.ExitStack) -> tuple[Run, dict[str, Any], Checkpoint | None]:
    """A run, its options and its last checkpoint; the stack closes the run."""
    if not folder.is_dir():
        raise bad_input(f"{folder} is not a folder: give the folder of a run")
    try:
        run = stack.enter_context(Run.reopen(folder))
        checkpoint = run.checkpoints.read()
        path = folder / "config.toml"
        config = read_config(folder) if checkpoint is None else parse_config(checkpoint.config, path)
    except FileNotFoundError as error:
        raise bad_input(f"{error}: give the folder of a run") from error
    except InUseError as error:
        raise bad_input(str(error)) from error
    except (DamagedError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise bad_input(f"cannot resume in {folder}: {reason}") from error
    if config.name == "demo":
        raise bad_input(f"the run in {folder} is one of the demo, which has no checkpoints: start a new run")
    return run, config.options, checkpoint


def _resume(run: Run, checkpoint: Checkpoint | None) -> None:
    """Set a run's folder to the state of its last checkpoint."""
    if checkpoint is None:
        run.begin()
        return
    try:
        for sentence in run.resume(checkpoint):
            print(f"sigmoid-core: {sentence}", file=sys.stderr)
    except ValueError as error:
        raise bad_input(str(error)) from error


def _place(options: Options) -> Place:
    try:
        return place_of(options.device, options.precision)
    except ValueError as error:
        raise bad_input(f"{error} (--device, --precision)") from error
    except ModuleNotFoundError as error:
        raise session.failed(str(error)) from error


def _choice(options: Options, ctrl_c: CtrlC, *, run_users_code: bool) -> Choice:
    try:
        data = load_data(options)
        if options.class_weights and not data.kind.is_class:
            raise bad_input("--class-weights is for classes, and the target is a number: leave it out")
        return choose(options, data, ctrl_c, run_users_code=run_users_code)
    except ValueError as error:
        raise bad_input(str(error)) from error
    except KeyboardInterrupt as error:
        raise session.interrupted("interrupted; nothing was written", ctrl_c.code) from error
