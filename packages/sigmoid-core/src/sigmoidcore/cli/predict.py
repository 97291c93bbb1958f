"""`sigmoid-core predict`: predictions of a run's network for new data, in a file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sigmoidcore.cli.common import OVERWRITE, RUN, opened
from sigmoidcore.training.data import listed
from sigmoidcore.training.display import Screen
from sigmoidcore.language import _
from unstuck.wording import counted

DATA = typer.Argument(
    metavar="DATA", show_default=False, help="File or folder like the training data, with or without the target."
)
OUTPUT = typer.Option(
    "--output", "-o", metavar="FILE", show_default=False,
    help="File of the predictions; it ends with .parquet or .csv.",
)  # fmt: skip
KEEP = typer.Option("--keep", metavar="COLUMN", help="Column of DATA to copy; repeat it for several.")


def predict(
    run: RUN,
    data: Annotated[str, DATA],
    output: Annotated[Path, OUTPUT],
    keep: Annotated[list[str] | None, KEEP] = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Predict new data with a run's network, in their order; large Parquet files are processed in pieces."""
    trained = opened(run)
    with Console(stderr=True, highlight=False).status(_("predicting")) as status:
        predicted = trained.predict_into(
            data, output, keep=keep or (), overwrite=overwrite,
            progress=lambda rows: status.update(_("predicting: {rows:,} rows", rows=rows)),
        )  # fmt: skip
    screen = Screen.of_stdout()
    for note in predicted.notes:
        screen.say(note)
    what = {"predictions": counted(predicted.rows, "prediction"), "columns": listed(predicted.columns)}
    screen.verbatim(_("{predictions} in {file}: {columns}", file=output, **what))
    return 0
