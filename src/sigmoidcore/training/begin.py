"""The beginning of a training: its data, its network, its place and its folder, as the options say."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigmoidcore.training import tensorboard
from sigmoidcore.training.course import Task, follow, lead
from sigmoidcore.training.data import Data, load
from sigmoidcore.training.device import Place, place_of
from sigmoidcore.training.display import Screen
from sigmoidcore.training.network_choice import chosen
from sigmoidcore.training.runs import session
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.resume import Resumed
from sigmoidcore.training.runs.session import CtrlC


def begin(
    options: Mapping[str, Any], *, own_code: bool = False, shard: bool = False, output: Path | None = None,
    overwrite: bool = False, resumed: Resumed | None = None,
) -> int:  # fmt: skip
    """Train, show it, and leave a run's folder.

    Args:
        options: all of `OPTIONS`.
        own_code: whether the user has named `options["model"]` here and now: a file's word lets no code be run.
        shard: spread the weights over the processes.
        output: the run's folder; None: one under `runs`.
        overwrite: replace the run that it holds.
        resumed: the run that goes on; its folder is let go in the end.

    Returns:
        The exit code: 0.

    Raises:
        Stopped: it cannot be done, was interrupted or failed; it says with which exit code.
    """
    parts, samples = options["accumulate"], options["batch_size"]
    if parts > samples:
        raise session.bad_input(f"--accumulate {parts} is more than the {samples} samples of a batch: lower it")
    if options["tensorboard"]:
        tensorboard.check()
    place = _place(options, shard)
    processes = place.processes
    with CtrlC(patient=processes.count > 1) as ctrl_c, session.threads(options["threads"]):
        data = processes.outcome(lambda: _data(options))
        if options["class_weights"] and not data.kind.is_class:
            raise session.bad_input("--class-weights is for classes, and the target is a number: leave it out")
        it = processes.outcome(lambda: chosen(options, data, own_code))
        options = {**options, **it.options}
        runs: list[Run] = []
        state = resumed.read.state if resumed is not None and resumed.read is not None else None
        with contextlib.ExitStack() as stack:
            stack.callback(_let_go, runs)
            if resumed is not None:
                processes.by_first(lambda: _go_on(resumed, runs))
            else:
                processes.by_first(lambda: runs.append(session.create_run(it.folder, options, output, overwrite)))
            task = Task(it.heading, it.name, it.data, it.make, options, place, ctrl_c, state)
            return lead(task, runs[0], Screen.of_stdout()) if runs else follow(task)


def _let_go(runs: list[Run]) -> None:
    for run in runs:
        run.close()


def _data(options: Mapping[str, Any]) -> Data:
    try:
        return load(
            options["data"],
            target=tuple(options["target"] or ()),
            drop=tuple(options["drop"] or ()),
            kind=options["kind"],
            test_size=options["test_size"],
            seed=options["seed"],
        )
    except ValueError as error:
        raise session.bad_input(str(error)) from error


def _place(options: Mapping[str, Any], shard: bool) -> Place:
    try:
        return place_of(options["device"], options["precision"], shard)
    except ValueError as error:
        raise session.bad_input(f"{error} (--device, --precision)") from error
    except ModuleNotFoundError as error:
        raise session.failed(str(error)) from error


def _go_on(resumed: Resumed, runs: list[Run]) -> None:
    """Let a run's folder be as it was when its last checkpoint was written; `runs` gets the run."""
    run, read = resumed.run, resumed.read
    assert run is not None
    runs.append(run)
    if read is None:
        run.begin()
        return
    try:
        for sentence in run.go_on(read):
            print(f"sigmoid-core: {sentence}", file=sys.stderr)
    except ValueError as error:
        raise session.bad_input(str(error)) from error
