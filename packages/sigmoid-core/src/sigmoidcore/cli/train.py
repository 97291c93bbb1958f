"""`sigmoid-core train`: made from the options in `training/options.py`."""

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sigmoidcore.training.launch import run_training
from sigmoidcore.training.options import Options, default_text, flag, types_of

_FILES = {
    "config": ("FILE", "Use the options of a config.toml; options on the command line override them."),
    "resume": ("RUN", "Resume a stopped run."),
    "output": ("FOLDER", "Folder of the run. Default: runs/DATA-DEPTHxWIDTH-N."),
}


def train(**values: Any) -> int:
    """Train a plain network of sigmoids of any depth; metrics, figures and weights go into a folder."""
    files = {name: values.pop(name) for name in _FILES}
    given = {name: value for name, value in values.items() if value not in (None, [])}
    run_training(given, **files, overwrite=bool(given.pop("overwrite", False)))
    return 0


def _parameters() -> Iterator[inspect.Parameter]:
    """The command's parameters: one for each option, then the files."""
    for option in dataclasses.fields(Options):
        kind, words = types_of(option.name)
        name, shown = flag(option.name), default_text(option)
        text = option.metadata["help"] + (f" Default: {shown}." if shown and option.default is not False else "")
        flags = [name] if option.default is False or kind is not bool else [f"{name}/--no-{name[2:]}"]
        declared: Any = bool if kind is bool else list[str] if kind is tuple else str
        yield _parameter(
            option.name, declared, *flags, metavar=option.metadata["metavar"] or "|".join(words), help=text
        )
    for name, (metavar, text) in _FILES.items():
        yield _parameter(name, Path, flag(name), metavar=metavar, help=text)
    yield _parameter("overwrite", bool, "--overwrite", metavar="", help="Replace the run in FOLDER.")


def _parameter(name: str, kind: Any, *flags: str, metavar: str, help: str) -> inspect.Parameter:
    info = typer.Option(*flags, metavar=metavar or None, help=help, show_default=False)
    annotation = Annotated[kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


train.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
train.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
