"""What the commands share: options, files, and how this command is called."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from sigmoidcore.language import VARIABLE
from unstuck.files import complete_file
from unstuck.language.errors import InputError

FILE = {"exists": True, "dir_okay": False, "show_default": False}
DATA = Annotated[Path, typer.Argument(metavar="DATA", help="Table: a CSV or Parquet file.", **FILE)]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]


def _speak(lang: str | None) -> None:
    if lang is not None:
        os.environ[VARIABLE] = lang


Lang = Annotated[
    Literal["en", "zh"] | None,
    typer.Option("--lang", help=f"Language of the output. Default: {VARIABLE}, or en.", callback=_speak),
]


def command() -> str:
    """This command as it was called: `.venv/bin/sigmoid-core` if it is not on the path."""
    called = sys.argv[0]
    away = Path(called).name == "sigmoid-core" and shutil.which("sigmoid-core") != called
    return shlex.quote(called) if away else "sigmoid-core"


@contextmanager
def output_file(path: Path, overwrite: bool, *inputs: Path) -> Iterator[BinaryIO]:
    """A file for the output, which is tried before the work and there when all is done; no input is replaced."""
    if path.exists() and any(path.samefile(each) for each in inputs):
        raise InputError("{path} is an input, which is not replaced: give the output another name", path=path)
    if path.exists() and not overwrite:
        raise InputError("{path} exists: give another name, or --overwrite", path=path)
    with InputError.replacing("cannot write {path}: {error}", OSError, path=path), complete_file(path) as file:
        yield file
