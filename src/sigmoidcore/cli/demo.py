"""`sigmoid-core demo`: the article's example, then one hundred layers of sigmoids with and without Sigmoid Core."""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

import sigmoidcore as sc
from sigmoidcore import article, plots
from sigmoidcore.plots.style import save_figure
from sigmoidcore.training import Options, Recipe, digits, session
from sigmoidcore.training.display import Screen, count, number, percent
from sigmoidcore.training.recording import RecordedTraining, save_figures
from sigmoidcore.training.runs.folder import check_free, next_free
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
EPOCHS = typer.Option("--epochs", metavar="N", help="Passes over the 1,400 digits, for each network.")
SEED = typer.Option("--seed", metavar="N", help="Seed of weights and of the order of samples.")


def demo(
    output: Annotated[Path | None, OUTPUT] = None,
    epochs: Annotated[str, EPOCHS] = "10",
    seed: Annotated[str, SEED] = "0",
) -> int:
    """Train 100 layers of sigmoids, with and without Sigmoid Core: half a minute, with figures."""
    began = time.monotonic()
    options = Options.parse({"epochs": epochs, "seed": seed})
    check_free(output, overwrite=False)
    folder = (output or next_free("demo")) / "figures"
    folder.mkdir(parents=True)
    screen = Screen.of_stdout()
    # One thread: layers of 64 neurons are too small for two.
    with CtrlC() as ctrl_c, session.threads(1), session.denormals_flushed():
        try:
            _article(screen, folder)
            ctrl_c.check()
            both = _hundred_layers(screen, ctrl_c, options)
        except KeyboardInterrupt as error:
            raise session.Stopped("interrupted", ctrl_c.code) from error
    save_figures(folder, both)
    _closing_table(screen, both)
    screen.heading("Figures")
    screen.listing([(str(folder / f"{name}.png"), what) for name, what in FIGURES.items()])
    screen.heading("Next")
    for arguments in ("--depth 300", "--depth 30 --saturation 1", "--help"):
        screen.verbatim(f"sigmoid-core train {arguments}")
    screen.say()
    screen.say(f"Took {time.monotonic() - began:.0f} s.", style="dim")
    return 0


def _article(screen: Screen, folder: Path) -> None:
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
    save_figure(plots.article_fit(fit), folder / "article_fit.png")


def _hundred_layers(screen: Screen, ctrl_c: CtrlC, options: Options) -> list[RecordedTraining]:
    trainings = []
    split = digits()
    inputs, targets = split.probes()
    epochs = count(options.epochs, "epoch")
    screen.heading("2. One hundred layers of sigmoids")
    screen.say(
        f"Handwritten digits, {len(split.train_x):,} to learn from and {len(split.test_x)} to test with; {DEPTH} "
        f"hidden layers of {WIDTH} sigmoids, no skip connections, no normalisation. Two networks train on the same "
        f"batches for the same {epochs}, with Adam and the same rule for the learning rates."
    )
    screen.say()
    screen.say(
        "Numbers below 1e-38 are rounded to 0 in both: some gradients of the plain network are smaller, and some "
        "processors are slow with them."
    )
    for name in (PLAIN, CORE):
        torch.manual_seed(options.seed)
        # A new core is nn.Sigmoid bit for bit, and its gradient can be measured.
        plain = {"activation": lambda size: sc.SigmoidCore(size)} if name == PLAIN else {}
        model = sc.MLP(split.train_x.shape[1], WIDTH, DEPTH, split.classes, **plain)
        story = "PyTorch's default weights."
        if name == CORE:
            report = sc.prepare(model, inputs, targets=targets, loss_fn=nn.functional.cross_entropy)
            story = f"slopes set from {len(inputs)} samples in {report.seconds:.1f} s, and equalized during training."
        screen.say()
        screen.say(f"{name[0].upper()}{name[1:]}: {story}", style="bold")
        recipe = Recipe(options.epochs, BATCH, RATE, options.seed, equalize=name == CORE)
        training = RecordedTraining(name, model, split, recipe, ctrl_c, observe=OBSERVE)
        trainings.append(training)
        training.train(screen)
        result = training.result
        screen.say(f"accuracy {percent(result.accuracies[-1])}, loss {result.losses[-1]:.3g} after {epochs}")
        screen.profile(training.end)
    return trainings


def _closing_table(screen: Screen, both: list[RecordedTraining]) -> None:
    screen.heading(f"{DEPTH} layers, {count(len(both[0].result.accuracies), 'epoch')}")
    rows = [
        ["test accuracy", *(percent(training.result.accuracies[-1]) for training in both)],
        ["spread at start", *(number(training.start.spread) for training in both)],
        ["spread at end", *(number(training.end.spread) for training in both)],
        ["no gradient in", *(f"{int((training.end.sizes == 0).sum())} of {training.layers}" for training in both)],
        ["time per step", *(f"{training.milliseconds:.1f} ms" for training in both)],
    ]
    screen.table(["", "plain", CORE], rows, strong=2)
    screen.say()
    screen.say("Spread: the largest gradient of a layer over the smallest; 1 is perfect. Guessing gives 10 %.")
