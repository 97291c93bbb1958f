"""`sigmoid-core predict`: predictions of a model of `train` for new rows."""

from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.cli.common import DATA, FILE, OVERWRITE, output_file
from unstuck.language.errors import InputError, short


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model of `sigmoid-core train`.", **FILE)],
    data: DATA,
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help=".csv or .parquet", show_default=False)
    ],
    overwrite: OVERWRITE = False,
) -> None:
    """Predict the target of new rows with a trained network."""
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{output} must end with .csv or .parquet")
    with output_file(output, overwrite, model, data) as file:
        from sigmoidcore.tables.model import load
        from sigmoidcore.tables.reading import read_file

        trained = load(model)
        found = trained.predict(read_file(data))
        if output.suffix.lower() == ".parquet":
            found.to_parquet(file, index=False)
        else:  # a spreadsheet would run some texts
            found.replace(r"^(?=[=+\-@\t\r])", "'", regex=True).to_csv(file, index=False)
    rows = f"{len(found):,} rows" if len(found) > 1 else "1 row"
    print(f"{output}: {rows}, {short(', '.join(found), 50)}")
