"""`fit`: what `sigmoid-core train` does, from Python; in a terminal and in a notebook one sees how far it is."""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sigmoidcore._files import write_whole
from sigmoidcore.training.data import DataError, as_table, needed
from sigmoidcore.training.options import options_from, where_it_is
from sigmoidcore.training.processes import part
from sigmoidcore.training.runs.folder import RUNS, next_free
from sigmoidcore.training.runs.resume import options_of, refuse, resumed
from sigmoidcore.training.runs.session import Stopped
from sigmoidcore.training.use.trained import TrainedRun, open_run


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
    needed("rich", "rich", "sigmoid-core[cli]")
    targets = [target] if isinstance(target, str) else list(target or ())
    given = {name: value for name, value in {"target": targets or None, **options}.items() if value is not None}
    resume = given.pop("resume", None)
    if resume is not None:
        beside = [name for name, value in (("data", data), ("output", output)) if value is not None]
        with _shown(progress):
            _go_on(Path(resume), given, beside)
        return open_run(resume)
    config, shard, overwrite = (given.pop(name, None) for name in ("config", "shard", "overwrite"))
    with _shown(progress):
        known = {} if config is None else options_of(Path(config))
        asked = options_from({**known, **given})
    if data is not None:
        asked["data"] = where_it_is(_source(data, Path(output).parent if output else RUNS))
    name = str(config or "run").replace("/", "-") if data is None else Path(asked["data"]).name.partition(".")[0]
    folder = next_free(name) if output is None else Path(output)
    try:
        with _shown(progress):
            _begin(asked, own_code="model" in given, shard=bool(shard), output=folder, overwrite=bool(overwrite))
    finally:
        if output is None and not any(folder.iterdir()):
            folder.rmdir()
    return open_run(folder)


def _go_on(folder: Path, given: Mapping[str, Any], beside: Sequence[str]) -> None:
    """Go on with a run, with nothing but what may be said anew."""
    refuse([*beside, *given])
    with contextlib.closing(resumed(folder)) as run:
        anew = {name: value for name, value in given.items() if name != "shard"}
        asked = options_from({**run.options, **anew})
        _begin(asked, own_code="model" in given, shard=bool(given.get("shard")), resumed=run)


def _begin(options: Mapping[str, Any], **others: Any) -> None:
    from sigmoidcore.training.begin import begin  # which shows what it does with rich

    try:
        begin(options, **others)
    finally:
        part()


@contextlib.contextmanager
def _shown(progress: bool) -> Iterator[None]:
    """What is done here is shown or not, and ends as Python's things end."""
    hidden = contextlib.nullcontext() if progress else contextlib.redirect_stdout(io.StringIO())
    try:
        with hidden:
            yield
    except Stopped as error:
        if error.code == 2:
            raise ValueError(str(error)) from error
        if error.code > 128:
            raise KeyboardInterrupt(str(error)) from error
        raise FitError(str(error)) from error


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
