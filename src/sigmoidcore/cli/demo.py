"""`sigmoid-core demo`: the article's example, then one hundred layers of sigmoids with and without Sigmoid Core."""

import io
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

import sigmoidcore as sc
from sigmoidcore import article
from sigmoidcore.plots import figures
from sigmoidcore.training import Recipe, Split, digits, session
from sigmoidcore.training.course import Record, RecordedTraining, probes, save_figures
from sigmoidcore.training.display import Screen, count, number, percent
from sigmoidcore.training.execution import explain
from sigmoidcore.training.runs.folder import Run, create_run
from sigmoidcore.training.session import CtrlC

DEPTH, WIDTH, BATCH, RATE = 100, 64, 100, 0.03
OBSERVE = 5
"""Steps between two columns of the heat map, for both networks."""
PLAIN, CORE = "plain sigmoids", "Sigmoid Core"

FIGURES = {
    "article_fit": "the article's example",
    "gradient_profiles": "gradient size in every layer",
    "learning_curves": "loss and accuracy by epoch",
    "gradient_heatmap": "gradient size by layer and step",
}
OUTPUT = typer.Option("--output", metavar="FOLDER", help="Folder for the figures.", show_default="runs/demo-N")
EPOCHS = typer.Option("--epochs", metavar="N", min=1, help="Passes over the 1,400 digits, for each network.")
SEED = typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Seed of weights and of the order of samples.")


def demo(
    output: Annotated[Path | None, OUTPUT] = None,
    epochs: Annotated[int, EPOCHS] = 10,
    seed: Annotated[int, SEED] = 0,
) -> int:
    """Train 100 layers of sigmoids, with and without Sigmoid Core: half a minute, with figures."""
    began = time.monotonic()
    screen = Screen.of_stdout()
    # One thread: layers of 64 neurons are too small for two.
    with CtrlC() as ctrl_c, session.threads(1):
        options = {"epochs": epochs, "seed": seed, "depth": DEPTH, "width": WIDTH, "batch_size": BATCH, "lr": RATE}
        run = create_run("demo", options, output)
        records: dict[str, Record] = {}
        problem: BaseException | None = None
        with run:
            try:
                _article(screen, run)
                ctrl_c.check()
                with session.denormals_flushed():
                    _hundred_layers(screen, run, ctrl_c, records, epochs, seed)
            except (KeyboardInterrupt, *session.FAILURES) as error:
                problem = error
            save_figures(run, records)
            stopped = isinstance(problem, KeyboardInterrupt)
            outcome = "interrupted" if stopped else "failed" if problem else "finished"
            run.log("end", outcome=outcome, message=str(problem or ""))
            if stopped:
                raise session.interrupted(f"interrupted; the results so far are in {run.folder}", ctrl_c.code)
            if isinstance(problem, Exception):
                raise explain(problem, run) from problem
            report = io.StringIO()
            _closing_table(Screen.of_file(report), records)
            run.save_report(report.getvalue().lstrip())
        _closing_table(screen, records)
        _what_next(screen, run, time.monotonic() - began)
    return 0


def _article(screen: Screen, run: Run) -> None:
    screen.heading("1. The article's example")
    screen.say("One sigmoid, y = sigmoid(slope (x - shift)), learns six points by changing its slope and its shift.")
    screen.say()
    started = time.perf_counter()
    fit = article.fit(article.POINTS_X, article.POINTS_Y)
    seconds = time.perf_counter() - started
    before, after = np.atleast_1d(article.sigmoid_core(fit.x, fit.start_alpha)), np.atleast_1d(fit.predict(fit.x))
    points = zip(fit.x, fit.y, before, after, strict=True)
    rows = [[f"{x:g}", f"{y:g}", f"{first:.4f}", f"{last:.4f}"] for x, y, first, last in points]
    screen.table(["x", "y", "before", "after"], rows, strong=3)
    screen.say()
    screen.say(
        f"slope {fit.start_alpha:.3g} -> {fit.alpha:.4g}, shift 0 -> {fit.shift:.4g}, mean squared error "
        f"{fit.loss[0]:.3g} -> {fit.loss[-1]:.3g} ({fit.loss.size - 1:,} epochs, {seconds:.2f} s)"
    )
    run.save_figure("article_fit", figures.article_fit(fit))


def _hundred_layers(
    screen: Screen, run: Run, ctrl_c: CtrlC, records: dict[str, Record], epochs: int, seed: int
) -> None:
    split = digits()
    screen.heading("2. One hundred layers of sigmoids")
    screen.say(
        f"Handwritten digits, {len(split.train_x):,} to learn from and {len(split.test_x)} to test with; {DEPTH} "
        f"hidden layers of {WIDTH} sigmoids, no skip connections, no normalisation. Two networks train on the "
        f"same batches for the same {count(epochs, 'epoch')}, with Adam and the same rule for the learning rates."
    )
    screen.say()
    screen.say(
        "Numbers below 1e-38 are rounded to 0 in both: some gradients of the plain network are smaller, and some "
        "processors are slow with them."
    )
    for name in (PLAIN, CORE):
        torch.manual_seed(seed)
        model, story = _plain(split) if name == PLAIN else _prepared(split)
        screen.say()
        screen.say(f"{name[0].upper()}{name[1:]}: {story}", style="bold")
        record = records[name] = Record(name, layers=DEPTH)
        training = RecordedTraining(model, split, record, run, ctrl_c, observe=OBSERVE)
        training.train(screen, Recipe(epochs, BATCH, RATE, seed, equalize=name == CORE))
        reached = record.result
        screen.say(
            f"accuracy {percent(reached.accuracies[-1])}, loss {reached.losses[-1]:.3g} after {count(epochs, 'epoch')}"
        )
        screen.profile(record.end)


def _plain(split: Split) -> tuple[nn.Module, str]:
    # A new core is nn.Sigmoid bit for bit, and its gradient can be measured.
    model = sc.MLP(split.train_x.shape[1], WIDTH, DEPTH, split.classes, activation=lambda n: sc.SigmoidCore(n))
    return model, "PyTorch's default weights."


def _prepared(split: Split) -> tuple[nn.Module, str]:
    model = sc.MLP(split.train_x.shape[1], WIDTH, DEPTH, split.classes)
    inputs, targets = probes(split)
    report = sc.prepare(model, inputs, targets=targets, loss_fn=nn.functional.cross_entropy)
    return model, f"slopes set from {len(inputs)} samples in {report.seconds:.1f} s, and equalized during training."


def _closing_table(screen: Screen, records: dict[str, Record]) -> None:
    both = [records[PLAIN], records[CORE]]
    screen.heading(f"{DEPTH} layers, {count(len(both[0].result.accuracies), 'epoch')}")
    rows = [
        ["test accuracy", *(percent(record.result.accuracies[-1]) for record in both)],
        ["spread at start", *(number(record.start.spread) for record in both)],
        ["spread at end", *(number(record.end.spread) for record in both)],
        ["no gradient in", *(f"{int((record.end.sizes == 0).sum())} of {record.layers}" for record in both)],
        ["time per step", *(f"{record.milliseconds:.1f} ms" for record in both)],
    ]
    screen.table(["", "plain", CORE], rows, strong=2)
    screen.say()
    screen.say("Spread: the largest gradient of a layer over the smallest; 1 is perfect. Guessing gives 10 %.")


def _what_next(screen: Screen, run: Run, seconds: float) -> None:
    screen.heading("Figures")
    screen.listing([(str(run.folder / "figures" / f"{name}.png"), what) for name, what in FIGURES.items()])
    screen.heading("Next")
    screen.verbatim("sigmoid-core train --depth 300")
    screen.verbatim("sigmoid-core train --depth 30 --saturation 1")
    screen.verbatim("sigmoid-core train --help")
    screen.say()
    screen.say(f"Took {seconds:.0f} s.", style="dim")
