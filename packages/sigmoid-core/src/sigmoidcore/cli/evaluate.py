"""`sigmoid-core evaluate`: the scores of a run's network, with confidence intervals."""

from pathlib import Path
from typing import Annotated

import typer

from sigmoidcore.cli.common import OVERWRITE, RUN, opened, print_json
from sigmoidcore.training.data import InputError
from sigmoidcore.training.display import Screen
from sigmoidcore.training.use import Evaluation, check_output
from unstuck.files import write_file
from sigmoidcore.language import _
from unstuck.wording import counted

DATA = typer.Argument(
    metavar="DATA", show_default="the run's test part", help="Other data with the target: a file or folder."
)
JSON = typer.Option("--json", metavar="FILE", help="Write everything as JSON; - is standard output.")
FIGURE = typer.Option("--figure", metavar="FILE", help="Draw the confusion matrix, or the numbers, into a .png file.")


def evaluate(
    run: RUN,
    data: Annotated[str | None, DATA] = None,
    json: Annotated[str | None, JSON] = None,
    figure: Annotated[Path | None, FIGURE] = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Measure a run's network on its test part or on other data, with 95 % confidence intervals."""
    trained = opened(run)
    file = None if json in (None, "-") else Path(str(json))
    files = [path for path in (file, figure) if path is not None]
    for path in files:
        check_output(path, overwrite, data)
    if figure is not None and figure.suffix.lower() != ".png":
        raise InputError("{figure} is not the name of a figure: let it end with .png", figure=figure)
    evaluation = trained.evaluate(data)
    if figure is not None:
        from sigmoidcore.plots.style import save_figure  # needs matplotlib

        save_figure(evaluation.figure(), figure)
    if file is not None:
        write_file(file, evaluation.to_json().encode())
    if json == "-":
        print_json(evaluation.to_json())
        return 0
    screen = Screen.of_stdout()
    _show(screen, evaluation)
    for path in files:
        screen.verbatim(_("written: {path}", path=path))
    return 0


def _show(screen: Screen, evaluation: Evaluation) -> None:
    samples = counted(evaluation.samples, "sample")
    screen.heading(_("{run} on {data}: {samples}", run=evaluation.run, data=evaluation.data, samples=samples))
    for note in evaluation.notes:
        screen.say(note)
    names = {"accuracy": _("accuracy"), "log loss": _("log loss")}
    rows = [[names.get(s.name, s.name), s.text, s.interval, s.baseline_text] for s in evaluation.scores]
    screen.table(["", _("value"), _("95 % interval"), evaluation.always], rows, strong=1)
    if evaluation.classes:
        screen.say()
        screen.classes(evaluation.classes)
    for sentence in evaluation.verdicts:
        screen.say()
        screen.say(sentence, style="bold")
