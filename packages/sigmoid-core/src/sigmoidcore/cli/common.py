"""What `train` and `predict` share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from unstuck.files import complete_file
from unstuck.language.errors import InputError

FILE = {"exists": True, "dir_okay": False, "show_default": False}
DATA = Annotated[Path, typer.Argument(metavar="DATA", help="Table: a CSV or Parquet file.", **FILE)]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]


@contextmanager
def output_file(path: Path, overwrite: bool, *inputs: Path) -> Iterator[BinaryIO]:
    """A file for the output, which is tried before the work and there when all is done; no input is replaced."""
    if path.exists() and (not overwrite or any(path.samefile(each) for each in inputs)):
        raise InputError("{path} exists: give another name, or --overwrite if it is not an input", path=path)
    with InputError.replacing("cannot write {path}: {error}", OSError, path=path), complete_file(path) as file:
        yield file
