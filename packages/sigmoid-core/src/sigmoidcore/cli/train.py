"""`sigmoid-core train`: a network for a table, beside boosted trees and a linear model."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import track

from sigmoidcore.cli.common import DATA, OVERWRITE, command, output_file
from unstuck.language.errors import short


def train(
    data: DATA,
    target: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The model.", show_default=False)],
    task: Annotated[Literal["classification", "regression"] | None, typer.Option(help="If detected wrongly.")] = None,
    drop: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column to leave out; repeatable.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of folds and weights.")] = 0,
    overwrite: OVERWRITE = False,
) -> None:
    """Train a network on a table, and compare it with boosted trees and a linear model."""
    screen, bars = (Console(stderr=err, width=80, highlight=False, markup=False, emoji=False) for err in (False, True))
    with output_file(output, overwrite, data) as file:
        import numpy as np
        import skops.io

        from sigmoidcore.tables.model import FOLDS, learnt
        from sigmoidcore.tables.reading import read_file

        source = read_file(data)
        source.check(*(drop or ()))
        source = source._replace(table=source.table.drop(columns=drop or []))
        model, columns, frame, answers = learnt(source, target, task)
        values = f"{answers.min():,.10g} to {answers.max():,.10g} {model.target.unit}"
        if model.classes:
            counts = zip(model.classes, np.bincount(answers), strict=True)
            values = ", ".join(f"{name} ({count:,})" for name, count in counts)
        screen.print(f"{data}: {len(frame):,} rows, {source.form}", soft_wrap=True)
        screen.print(f"target: {short(target, 30)}, {short(values, 200)}")
        for kind in dict.fromkeys(each.kind for each in columns):
            screen.print(f"{kind}: {short(', '.join(each.name for each in columns if each.kind == kind), 200)}")
        scores: dict[str, list[float]] = {}
        steps = model.scores(frame, answers, seed)
        shown = track(steps, f"{FOLDS} folds", total=3 * FOLDS, console=bars, transient=True)
        for name, score in shown if bars.is_terminal else steps:
            scores.setdefault(name, []).append(score)
        with bars.status("training on all rows") if bars.is_terminal else nullcontext():  # it ends with a line
            file.write(skops.io.dumps(model.fit(frame, answers, seed)))
    metric = "R2" if not model.classes else "AUC" if len(model.classes) == 2 else "accuracy"
    screen.print(f"{metric} on rows that were not learnt from, and its 95 % interval over {FOLDS} folds:")
    for name, each in scores.items():
        mean, low, high = interval(each)
        screen.print(f"  {name:31} {mean:6.3f} ({low:.3f} to {min(high, 1):.3f})")
    ours, *others = scores
    best = max(others, key=lambda name: np.mean(scores[name]))
    mean, low, high = interval(np.subtract(scores[best], scores[ours]))
    verdict = "is better" if low > 0 else "is not better" if mean <= 0 else "may be better"
    screen.print(f"{best} {verdict}: {mean:+.3f} ({low:+.3f} to {high:+.3f}).")
    following = f"{command()} predict {output} NEW.csv -o predictions.csv"
    screen.print(f"{output} is written. Next:\n  {following}", soft_wrap=True)


def interval(scores: Any) -> tuple[float, float, float]:
    """Mean and 95 % interval over folds, whose training rows overlap: Nadeau and Bengio (2003)."""
    import numpy as np
    from scipy import stats

    mean, n = float(np.mean(scores)), len(scores)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(scores, ddof=1) * np.sqrt(1 / n + 1 / (n - 1)))
    return mean, mean - half, mean + half
