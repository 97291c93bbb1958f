"""`fit`: `sigmoid-core train` from Python."""

import contextlib
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sigmoidcore.training.data import DataError, as_table, needed
from sigmoidcore.training.options import absolute
from sigmoidcore.training.place import leave_group
from sigmoidcore.training.runs.folder import RUNS
from sigmoidcore.training.use import TrainedRun, open_run
from unstuck.files import write_file
from unstuck.language.errors import Stopped


class FitError(RuntimeError):
    """A training failed; the message is one line, and names the folder with its results."""


def fit(
    data: Any = None, target: str | Sequence[str] | None = None, *, output: str | Path | None = None,
    progress: bool = True, **options: Any,
) -> TrainedRun:  # fmt: skip
    """Train a network and write a run's folder, as `sigmoid-core train` does.

    Args:
        data: name of a built-in set, a file or folder that `load` reads, a pandas.DataFrame, a pyarrow.Table, or
            (inputs, targets) as NumPy arrays. Data in memory are written into the folder of runs as Parquet or NPZ, so
            that the run can be evaluated, resumed and repeated.
        target: the column to predict, or several numeric columns.
        output: the run's folder; None: `runs/NAME-N` with the first free number N.
        progress: show the live view in a terminal or notebook, plain lines elsewhere; False: show nothing.
        options: options of the command with _ for -, as `depth=20`, `epochs=5`, `equalize=False`, `drop=["id"]`,
            `config="config.toml"`, `overwrite=True`; or `resume=FOLDER` alone, to resume a run.

    Returns:
        The run.

    Raises:
        InputError: the data or an option is invalid; nothing was written. It is a ValueError.
        FitError: the training failed.
        KeyboardInterrupt: it was interrupted; `fit(resume=FOLDER)` resumes it.
        ModuleNotFoundError: a package is not installed (extra `cli`).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "wine"
        >>> run = fit("wine", output=folder, depth=3, width=16, epochs=3, progress=False)
        >>> run.evaluate().samples
        36
    """
    needed("rich", "rich", "sigmoid-core[cli]")
    from sigmoidcore.training.launch import parse_options, run_training  # needs the extra cli

    targets = [target] if isinstance(target, str) else list(target or ())
    given = {name: value for name, value in {"target": targets or None, **options}.items() if value is not None}
    output = None if output is None else Path(output)
    files = {name: given.pop(name) for name in ("config", "resume", "overwrite") if name in given}
    try:
        with contextlib.nullcontext() if progress else contextlib.redirect_stdout(io.StringIO()):
            if data is not None and "resume" not in files:
                parse_options(given, files.get("config"))  # before data are written
                data = absolute(_source(data, RUNS if output is None else output.parent))
            return open_run(run_training({**given, "data": data}, output=output, **files))
    except Stopped as error:
        if error.code > 128:
            raise KeyboardInterrupt(str(error)) from error
        raise FitError(str(error)) from error
    finally:
        leave_group()


def _source(data: Any, folder: Path) -> str:
    """The source for `load`; data in memory are written into a file."""
    if isinstance(data, str | Path):
        return str(data)
    file = io.BytesIO()
    if isinstance(data, tuple):
        if len(data) != 2:
            raise DataError("data is a tuple of {count}: give (inputs, targets)", count=len(data))
        x, y = (np.asarray(part) for part in data)
        np.savez(file, x=x, y=y)
        name, ending = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest(), "npz"
    else:
        needed("pyarrow.parquet", "pyarrow").write_table(as_table(data), file)
        name, ending = hashlib.sha256(file.getvalue()).hexdigest(), "parquet"
    path = (folder / f"table-{name[:8]}.{ending}").absolute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, file.getvalue())
    return str(path)
