"""The arguments that commands share, and the run that they name."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.training.data import InputError
from sigmoidcore.training.use import TrainedRun, open_run
from sigmoidcore.language import _

RUN = Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="Folder of a run.")]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


def opened(folder: Path) -> TrainedRun:
    """The run that a command names."""
    if not folder.is_dir():
        what = _("is a file") if folder.exists() else _("does not exist")
        raise InputError(
            "{folder} {what}: give the folder of a run; `sigmoid-core runs` lists them", folder=folder, what=what
        )
    return open_run(folder)


def print_json(text: str) -> None:
    """Print JSON, with characters that the output cannot encode or that could control a terminal as escapes."""
    encoding = sys.stdout.encoding or "utf-8"

    def written(found: re.Match[str]) -> str:
        return (
            found[0] if found[0].isprintable() and found[0].encode(encoding, "ignore") else json.dumps(found[0])[1:-1]
        )

    print(re.sub(r"[^ -~\n]", written, text))
