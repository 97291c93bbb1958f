"""`sigmoid-core train`: made from the options in `training/options.py`."""

import dataclasses
import inspect
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


def _parameters() -> list[inspect.Parameter]:
    """The command's parameters: one for each option, then the files."""
    found = []
    for option in dataclasses.fields(Options):
        kind, words = types_of(option.name)
        name, metadata = flag(option.name), option.metadata
        metavar = metadata["metavar"] or "|".join(words)
        shown = default_text(option)
        text = metadata["help"] + (f" Default: {shown}." if shown and option.default is not False else "")
        flags = [name] if option.default is False or kind is not bool else [f"{name}/--no-{name[2:]}"]
        declared: Any = bool if kind is bool else list[str] if kind is tuple else str
        info = typer.Option(*flags, metavar=metavar or None, help=text, show_default=False)
        found.append(_parameter(option.name, declared, info))
    for name, (metavar, text) in _FILES.items():
        info = typer.Option(flag(name), metavar=metavar, help=text, show_default=False)
        found.append(_parameter(name, Path, info))
    info = typer.Option("--overwrite", help="Replace the run in FOLDER.", show_default=False)
    return [*found, _parameter("overwrite", bool, info)]


def _parameter(name: str, kind: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


train.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
train.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
