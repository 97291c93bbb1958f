"""`sigmoid-core evaluate`: how good a run's network is, with confidence intervals."""

import io
from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore._files import write_whole
from sigmoidcore.cli.common import in_one_line, nothing_left, opened
from sigmoidcore.cli.predict import MODEL, OVERWRITE, RUN
from sigmoidcore.diagnosis.report.terminal import writable
from sigmoidcore.training.display import Screen
from sigmoidcore.training.runs.session import bad_input
from sigmoidcore.training.use.evaluate import ClassScore, Evaluation, interval, shown
from sigmoidcore.training.use.output import check_output

MOST = 30
"""Classes that a terminal shows; the others are in the JSON."""


def evaluate(
    run: RUN,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]", show_default="the run's own test part", help="A file or folder, with the target."
        ),
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all of it as JSON; - is standard output.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", metavar="FILE", help="Draw the confusion matrix, or the numbers: a name in .png."),
    ] = None,
    model: MODEL = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Measure a run's network, on its own test part or on other data, with 95 % confidence intervals."""
    trained = opened(run, model)
    file = None if json in (None, "-") else Path(str(json))
    with in_one_line(), nothing_left():
        for path in (file, figure):
            if path is not None:
                check_output(path, overwrite, data)
        if figure is not None and figure.suffix.lower() != ".png":
            raise bad_input(f"{figure} is no name of a figure: let it end with .png")
        found = trained.evaluate(data)
        drawn = io.BytesIO()
        if figure is not None:
            found.figure().savefig(drawn, dpi=150, format="png")
            write_whole(figure, drawn.getvalue())
        if file is not None:
            write_whole(file, found.to_json().encode())
    if json == "-":
        print(writable(found.to_json()))
        return 0
    screen = Screen.of_stdout()
    _show(screen, found)
    for path in (file, figure):
        if path is not None:
            screen.verbatim(f"written: {path}")
    return 0


def _show(screen: Screen, found: Evaluation) -> None:
    screen.heading(f"{found.run} on {found.data}: {found.samples:,} samples")
    for note in found.notes:
        screen.say(note)
    screen.table(["", "value", "95 % interval"], [[s.name, shown(s), interval(s)] for s in found.scores], strong=1)
    if found.classes:
        screen.say()
        rows = [_row(c) for c in found.classes[:MOST]]
        screen.table(["class", "samples", "precision", "recall", "F1"], rows)
        if len(found.classes) > MOST:
            screen.say(f"and {len(found.classes) - MOST:,} more classes, see --json")


def _row(of: ClassScore) -> list[str]:
    return [of.name, f"{of.samples:,}", *(_percent(share) for share in (of.precision, of.recall, of.f1))]


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.1f} %"
