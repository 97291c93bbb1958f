"""`fit`: what `sigmoid-core train` does, from Python; in a terminal and in a notebook one sees how far it is."""

import contextlib
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sigmoidcore.files import write_whole
from sigmoidcore.training.data import DataError
from sigmoidcore.training.data.error import needed
from sigmoidcore.training.data.tables import as_table
from sigmoidcore.training.run import RUNS, next_free
from sigmoidcore.training.trained import TrainedRun, open_run


class FitError(RuntimeError):
    """A training has failed; the message is one line, and says what is kept of it."""


def fit(
    data: Any = None, target: str | Sequence[str] | None = None, *, output: str | Path | None = None,
    progress: bool = True, **options: Any,
) -> TrainedRun:  # fmt: skip
    """Train a network and leave a run's folder, as `sigmoid-core train` does.

    Args:
        data: the name of a built-in set, a file or folder of any kind that `load` reads, a pandas.DataFrame, a
            pyarrow.Table, or (inputs, targets) as NumPy arrays. What is in memory is written into the folder of runs as
            Parquet or NPZ, so that the run can be evaluated, resumed and made again.
        target: the column that is learnt, or several columns of numbers.
        output: the run's folder; None: `runs/NAME-N` with the first free number N.
        progress: show the live view in a terminal and in a notebook, plain lines elsewhere; False: show nothing.
        options: those of the command with _ for -, as `depth=20`, `epochs=5`, `equalize=False`, `drop=["id"]`,
            `overwrite=True`; or `resume=FOLDER` alone, to go on with a run.

    Returns:
        The run, ready for use.

    Raises:
        ValueError: the data, or an option, cannot be used; nothing was begun.
        FitError: the training failed.
        KeyboardInterrupt: it was interrupted; `fit(resume=FOLDER)` goes on.
        ModuleNotFoundError: a package is not installed (extra `cli`).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "wine"
        >>> run = fit("wine", output=folder, depth=3, width=16, epochs=3, progress=False)
        >>> run.evaluate().samples
        36
    """
    resumed = options.get("resume")
    if resumed is not None:
        _run(["--resume", str(resumed)], progress)
        return open_run(resumed)
    given = [] if data is None else ["--data", _source(data, Path(output).parent if output else RUNS)]
    name = Path(given[1]).name.partition(".")[0] if given else str(options.get("config", "run")).replace("/", "-")
    folder = next_free(name) if output is None else Path(output)
    targets = [target] if isinstance(target, str) else list(target or ())
    arguments = [*given, *_arguments({"target": targets, **options}), "--output", str(folder)]
    try:
        _run(arguments, progress)
    finally:
        if output is None and not any(folder.iterdir()):
            folder.rmdir()
    return open_run(folder)


def _run(arguments: list[str], progress: bool) -> None:
    needed("typer", "typer", "sigmoid-core[cli]")
    from sigmoidcore.cli import run_command
    from sigmoidcore.cli.session import Stopped

    hidden = contextlib.nullcontext() if progress else contextlib.redirect_stdout(io.StringIO())
    try:
        with hidden:
            run_command(["train", *arguments])
    except Stopped as error:
        if error.code == 2:
            raise ValueError(str(error)) from error
        if error.code > 128:
            raise KeyboardInterrupt(str(error)) from error
        raise FitError(str(error)) from error


def _arguments(options: dict[str, Any]) -> list[str]:
    """Options as they are typed.

    Example:
        >>> _arguments({"depth": 3, "equalize": False, "overwrite": True, "drop": ["id", "name"], "clip": None})
        ['--depth', '3', '--no-equalize', '--overwrite', '--drop', 'id', '--drop', 'name']
    """
    typed: list[str] = []
    for key, value in options.items():
        name = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            typed += [name] if value else [f"--no-{name[2:]}"] if key in _WITH_NO else []
        elif isinstance(value, list | tuple):
            typed += [word for item in value for word in (name, str(item))]
        elif value is not None:
            typed += [name, str(value)]
    return typed


_WITH_NO = ("equalize", "prepare")
"""Options of which the command has a --no- as well."""


def _source(data: Any, folder: Path) -> str:
    """What the command reads; of data in memory, the file that they were written into."""
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, tuple):
        if len(data) != 2:
            raise DataError(f"a tuple of {len(data)} was given as data: give (inputs, targets)")
        held = io.BytesIO()
        x, y = (np.asarray(part) for part in data)
        np.savez(held, x=x, y=y)
        content, ending = held.getvalue(), "npz"
        name = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    else:
        table = as_table(data)
        held = io.BytesIO()
        needed("pyarrow.parquet", "pyarrow").write_table(table, held)
        content, ending = held.getvalue(), "parquet"
        name = hashlib.sha256(content).hexdigest()
    path = (folder / f"table-{name[:8]}.{ending}").absolute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return str(path)
