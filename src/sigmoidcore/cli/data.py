"""What `sigmoid-core train` learns from: a built-in set, or the user's own file or folder."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from sigmoidcore.cli.live import count
from sigmoidcore.cli.session import bad_input
from sigmoidcore.training.data import BUILT_IN, Data, load
from sigmoidcore.training.source import data_of as source_of

CLASSES_SHOWN = 5
"""Names of classes that are shown before the rest is counted."""


def source(value: str) -> str:
    """A built-in set's name, or the whole path of what is there: a run goes on from any folder."""
    return os.path.abspath(value) if value not in BUILT_IN and os.path.exists(value) else value


def share(value: float | None) -> float | None:
    """The share of the samples that is for the test."""
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value} is not above 0 and below 1; 0.2 is the usual choice.")
    return value


def data_of(
    source: str, target: Sequence[str], drop: Sequence[str], kind: str | None, test_size: float | None, seed: int
) -> Data:
    """The data set.

    Raises:
        Stopped: it cannot be used, with code 2.
    """
    try:
        return load(source, target=tuple(target), drop=tuple(drop), kind=kind, test_size=test_size, seed=seed)
    except ValueError as error:
        raise bad_input(str(error)) from error


def data_of_run(options: Mapping[str, Any]) -> Data:
    """The data set that a run with these options has learnt from.

    Raises:
        Stopped: it is not there any more, or the options are not of a run, with code 2.
    """
    try:
        return source_of(options)
    except ValueError as error:
        raise bad_input(str(error)) from error


def file_name(data: Data) -> str:
    """The set's name, as a folder may have it in its own."""
    return re.sub(r"[^\w.-]+", "-", data.name).strip(".-") or "data"


def outputs(data: Data) -> str:
    """What the network's outputs are, for a heading."""
    return count(len(data.classes), "class", "classes") if data.kind.is_class else count(data.outputs, "number")


def learnt(data: Data) -> str:
    """What the target was found to be, and how many samples there are, in a line."""
    what = ", ".join(data.targets)
    shown = ", ".join(data.classes[:CLASSES_SHOWN]) + (", ..." if len(data.classes) > CLASSES_SHOWN else "")
    kind = f"{data.kind} ({shown})" if data.kind.is_class else str(data.kind)
    return f"target {what}: {kind}; {len(data.train):,} training and {len(data.test):,} test samples"
