"""The option `--lang`."""

import os
from typing import Annotated, Literal

import typer

from sigmoidcore.language import VARIABLE


def _speak(lang: str | None) -> None:
    if lang is not None:
        os.environ[VARIABLE] = lang


Lang = Annotated[
    Literal["en", "zh"] | None,
    typer.Option("--lang", help=f"Language of the output. Default: {VARIABLE}, or en.", callback=_speak),
]
