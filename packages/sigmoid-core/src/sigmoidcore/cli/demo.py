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
from sigmoidcore.training.display import Screen, number, percent
from sigmoidcore.training.recording import RecordedTraining, save_figures
from sigmoidcore.training.runs.folder import check_free, next_free
from sigmoidcore.training.session import CtrlC
from sigmoidcore.language import _
from unstuck.language.errors import Stopped
from unstuck.wording import counted

DEPTH, WIDTH, BATCH, RATE = 100, 64, 100, 0.03
OBSERVE = 5
"""Steps between two columns of the heat map, for both networks."""
PLAIN, CORE = "plain sigmoids", "Sigmoid Core"
OUTPUT = typer.Option("--output", metavar="FOLDER", help="Folder for the figures.", show_default="runs/demo-N")


def demo(
    output: Annotated[Path | None, OUTPUT] = None,
    epochs: Annotated[str, typer.Option(metavar="N", help="Passes over the 1,400 digits, for each network.")] = "10",
    seed: Annotated[str, typer.Option(metavar="N", help="Seed of weights and of the order of samples.")] = "0",
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
            raise Stopped(_("interrupted"), ctrl_c.code) from error
    save_figures(folder, both)
    _closing_table(screen, both)
    screen.heading(_("Figures"))
    screen.listing([(str(folder / f"{name}.png"), what) for name, what in _figures().items()])
    screen.heading(_("Next"))
    for arguments in ("--depth 300", "--depth 30 --saturation 1", "--help"):
        screen.verbatim(f"sigmoid-core train {arguments}")
    screen.say()
    screen.say(_("Took {seconds:.0f} s.", seconds=time.monotonic() - began), style="dim")
    return 0


def _figures() -> dict[str, str]:
    """The figures and what they show."""
    return {
        "article_fit": _("the article's example"),
        "gradient_profiles": _("gradient size in every layer"),
        "learning_curves": _("loss and accuracy by epoch"),
        "gradient_heatmap": _("gradient size by layer and step"),
    }


def _article(screen: Screen, folder: Path) -> None:
    screen.heading(_("1. The article's example"))
    screen.say(_("One sigmoid, y = sigmoid(slope (x - shift)), learns six points by changing its slope and its shift."))
    screen.say()
    started = time.perf_counter()
    fit = article.fit(article.POINTS_X, article.POINTS_Y)
    seconds = time.perf_counter() - started
    before, after = np.atleast_1d(article.sigmoid_core(fit.x, fit.start_alpha)), np.atleast_1d(fit.predict(fit.x))
    points = zip(fit.x, fit.y, before, after, strict=True)
    rows = [[f"{x:g}", f"{y:g}", f"{first:.4f}", f"{last:.4f}"] for x, y, first, last in points]
    screen.table(["x", "y", _("before"), _("after")], rows, strong=3)
    screen.say()
    screen.say(
        _(
            "slope {slope:.3g} -> {new_slope:.4g}, shift 0 -> {shift:.4g}, mean squared error {error:.3g} -> "
            "{new_error:.3g} ({epochs:,} epochs, {seconds:.2f} s)",
            slope=fit.start_alpha,
            new_slope=fit.alpha,
            shift=fit.shift,
            error=fit.loss[0],
            new_error=fit.loss[-1],
            epochs=fit.loss.size - 1,
            seconds=seconds,
        )
    )
    save_figure(plots.article_fit(fit), folder / "article_fit.png")


def _hundred_layers(screen: Screen, ctrl_c: CtrlC, options: Options) -> list[RecordedTraining]:
    trainings = []
    split = digits()
    inputs, targets = split.probes()
    epochs = counted(options.epochs, "epoch")
    screen.heading(_("2. One hundred layers of sigmoids"))
    screen.say(
        _(
            "Handwritten digits, {train:,} to learn from and {test} to test with; {depth} hidden layers of {width} "
            "sigmoids, no skip connections, no normalisation. Two networks train on the same batches for the same "
            "{epochs}, with Adam and the same rule for the learning rates.",
            train=len(split.train_x),
            test=len(split.test_x),
            depth=DEPTH,
            width=WIDTH,
            epochs=epochs,
        )
    )
    screen.say()
    screen.say(
        _(
            "Numbers below 1e-38 are rounded to 0 in both: some gradients of the plain network are smaller, and some "
            "processors are slow with them."
        )
    )
    for name in (PLAIN, CORE):
        torch.manual_seed(options.seed)
        # A new core is nn.Sigmoid bit for bit, and its gradient can be measured.
        plain = {"activation": lambda size: sc.SigmoidCore(size)} if name == PLAIN else {}
        model = sc.MLP(split.train_x.shape[1], WIDTH, DEPTH, split.classes, **plain)
        story = _("Plain sigmoids: PyTorch's default weights.")
        if name == CORE:
            report = sc.prepare(model, inputs, targets=targets, loss_fn=nn.functional.cross_entropy)
            story = _(
                "Sigmoid Core: slopes set from {count} samples in {seconds:.1f} s, and equalized during training.",
                count=len(inputs), seconds=report.seconds,
            )  # fmt: skip
        screen.say()
        screen.say(story, style="bold")
        recipe = Recipe(options.epochs, BATCH, RATE, options.seed, equalize=name == CORE)
        training = RecordedTraining(name, model, split, recipe, ctrl_c, observe=OBSERVE)
        trainings.append(training)
        training.train(screen)
        result = training.result
        scores = {"accuracy": percent(result.accuracies[-1]), "loss": result.losses[-1]}
        screen.say(_("accuracy {accuracy}, loss {loss:.3g} after {epochs}", epochs=epochs, **scores))
        screen.profile(training.end)
    return trainings


def _closing_table(screen: Screen, both: list[RecordedTraining]) -> None:
    epochs = counted(len(both[0].result.accuracies), "epoch")
    screen.heading(_("{depth} layers, {epochs}", depth=DEPTH, epochs=epochs))
    zeros = [(int((training.end.sizes == 0).sum()), training.layers) for training in both]
    rows = [
        [_("test {metric}", metric=_("accuracy")), *(percent(training.result.accuracies[-1]) for training in both)],
        [_("spread at start"), *(number(training.start.spread) for training in both)],
        [_("spread at end"), *(number(training.end.spread) for training in both)],
        [_("no gradient in"), *(_("{count} of {all}", count=n, all=layers) for n, layers in zeros)],
        [_("time per step"), *(f"{training.milliseconds:.1f} ms" for training in both)],
    ]
    screen.table(["", _("plain"), CORE], rows, strong=2)
    screen.say()
    screen.say(_("Spread: the largest gradient of a layer over the smallest; 1 is perfect. Guessing gives 10 %."))
