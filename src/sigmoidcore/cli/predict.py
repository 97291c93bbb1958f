"""`sigmoid-core predict`: what a run's network says of new data, into a file."""

from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.cli.common import in_one_line, nothing_left, opened
from sigmoidcore.training.data import listed
from sigmoidcore.training.display import Screen, count

RUN = Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="The folder of a run.")]
MODEL = Annotated[
    str | None,
    typer.Option("--model", metavar="MODULE:FUNCTION", help="Your own code that made the run's network: it is run."),
]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def predict(
    run: RUN,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="A file or folder as the run has learnt from, with the target or without it.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="Where predictions go: a name that ends with .parquet, .csv, .tsv, .csv.gz, .tsv.gz or .feather.",
        ),
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="COLUMN", help="A column of DATA that goes with them; repeat it for several."),
    ] = None,
    model: MODEL = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Predict new data with a run's network, in their order; large Parquet files are read and written in pieces."""
    trained = opened(run, model)
    with in_one_line(), nothing_left():
        predicted = trained.predict_into(data, output, keep=keep or (), overwrite=overwrite)
    screen = Screen.of_stdout()
    for note in predicted.notes:
        screen.say(note)
    screen.verbatim(f"{count(predicted.rows, 'prediction')} in {output}: {listed(predicted.columns)}")
    return 0
