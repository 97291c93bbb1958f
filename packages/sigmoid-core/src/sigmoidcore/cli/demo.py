"""`sigmoid-core demo`: the article's example, then one hundred layers of sigmoids with and without Sigmoid Core."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import sigmoidcore as sc
from sigmoidcore import article
from sigmoidcore.cli.common import Lang, command
from sigmoidcore.cli.helmholtz import helmholtz
from sigmoidcore.cli.screen import Figures, Screen
from sigmoidcore.lab.datasets import DataSet, data_set
from sigmoidcore.language import _
from sigmoidcore.plots import figures
from sigmoidcore.plots.style import save_figure
from sigmoidcore.training_loop import Schedule, Training, adamw, narrow_layers
from unstuck.language.terminal import printable
from unstuck.wording import counted

DEPTH, WIDTH, BATCH, RATE, PROBES = 100, 64, 100, 0.03, 256
PLAIN, CORE = "plain sigmoids", "Sigmoid Core"
OUTPUT = typer.Option("--output", metavar="FOLDER", help="Folder for the figures.")
EPOCHS = typer.Option(metavar="N", min=1, max=1000, help="Passes over the 1,400 digits, or hundreds of steps.")
SEED = typer.Option(metavar="N", min=0, max=2**31 - 1, help="Seed of weights and of the order of samples.")
PHYSICS = typer.Option("--physics", help="Solve a differential equation with tanh and with cores, in a minute.")


def demo(
    output: Annotated[Path, OUTPUT] = Path("sigmoid-core-demo"),
    epochs: Annotated[int, EPOCHS] = 10,
    seed: Annotated[int, SEED] = 0,
    physics: Annotated[bool, PHYSICS] = False,
    lang: Lang = None,
) -> None:
    """Train 100 layers of sigmoids, with and without Sigmoid Core: half a minute, with figures."""
    began = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    screen = Screen(highlight=False, markup=False, emoji=False)
    drawn = helmholtz(screen, epochs, seed) if physics else _sigmoids(screen, epochs, seed)
    screen.heading(_("Figures"))
    for name, figure, what in drawn:
        save_figure(figure, output / name)
        screen.print(f"   {printable(str(output))}/{name:<23}{what}", soft_wrap=True)
    screen.heading(_("Next"))
    for following in ("demo" if physics else "demo --physics", "lab", "train --help"):
        screen.print(f"   {command()} {following}", soft_wrap=True)
    screen.say(_("Took {seconds:.0f} s.", seconds=time.monotonic() - began), "dim", above=1)


def _sigmoids(screen: Screen, epochs: int, seed: int) -> Figures:
    fit = _article(screen)
    with narrow_layers():
        runs = _hundred_layers(screen, epochs, seed)
    _closing_table(screen, runs)
    profiles = {f"{run.name}, at the {when}": getattr(run, when) for run in runs[::-1] for when in ("start", "end")}
    return [
        ("article_fit.png", figures.article_fit(fit), _("the article's example")),
        ("gradient_profiles.png", figures.gradient_profiles(profiles), _("gradient size in every layer")),
    ]


def _article(screen: Screen) -> article.Fit:
    screen.heading(_("1. The article's example"))
    screen.say(_("One sigmoid, y = sigmoid(slope (x - shift)), learns six points by changing its slope and its shift."))
    started = time.perf_counter()
    fit = article.fit(article.POINTS_X, article.POINTS_Y)
    seconds = time.perf_counter() - started
    rows = [
        [f"{x:g}", f"{y:g}", f"{article.sigmoid_core(x, fit.start_alpha):.4f}", f"{fit.predict(x):.4f}"]
        for x, y in zip(fit.x, fit.y, strict=True)
    ]
    screen.table(["x", "y", _("before"), _("after")], rows)
    result = _(
        "slope {slope:.3g} -> {new_slope:.4g}, shift 0 -> {shift:.4g}, mean squared error {error:.3g} -> "
        "{new_error:.3g} ({epochs:,} epochs, {seconds:.2f} s)",
        slope=fit.start_alpha, new_slope=fit.alpha, shift=fit.shift, error=fit.loss[0], new_error=fit.loss[-1],
        epochs=fit.loss.size - 1, seconds=seconds,
    )  # fmt: skip
    screen.say(result, above=1)
    return fit


def _hundred_layers(screen: Screen, epochs: int, seed: int) -> list["Run"]:
    data, runs, in_words = data_set("digits"), [], counted(epochs, "epoch")
    problem = _(
        "Handwritten digits, {train:,} to learn from and {test} to test with; {depth} hidden layers of {width} "
        "sigmoids, no skip connections, no normalisation. Two networks train on the same batches for the same "
        "{epochs}, with Adam and the same rule for the learning rates.",
        train=len(data.train_x), test=len(data.test_x), depth=DEPTH, width=WIDTH, epochs=in_words,
    )  # fmt: skip
    rounding = _(
        "Numbers below 1e-38 are rounded to 0 in both: some gradients of the plain network are smaller, and some "
        "processors are slow with them."
    )
    screen.heading(_("2. One hundred layers of sigmoids"))
    screen.say(problem)
    screen.say(rounding, above=1)
    for name in (PLAIN, CORE):
        torch.manual_seed(seed)
        # A new core is nn.Sigmoid bit for bit, and its gradient can be measured.
        activation = sc.SigmoidCore if name == PLAIN else None
        model = sc.MLP(data.features, WIDTH, DEPTH, data.outputs, activation=activation)
        story = _("Plain sigmoids: PyTorch's default weights.")
        if name == CORE:
            report = sc.prepare(model, data.train_x[:PROBES], targets=data.train_y[:PROBES], loss_fn=data.loss_fn)
            story = _(
                "Sigmoid Core: slopes set from {count} samples in {seconds:.1f} s, and equalized during training.",
                count=PROBES, seconds=report.seconds,
            )  # fmt: skip
        screen.say(story, "bold", above=1)
        run = Run(name, model, data)
        run.train(screen, epochs, seed)
        scores = {"accuracy": _percent(run.accuracies), "loss": run.losses[-1], "epochs": in_words}
        screen.say(_("accuracy {accuracy}, loss {loss:.3g} after {epochs}", **scores))
        runs.append(run)
    return runs


class Run:
    """One of the two networks, and what was measured while it trained."""

    def __init__(self, name: str, model: sc.MLP, data: DataSet) -> None:
        self.name, self.model, self.data = name, model, data
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.seconds: list[float] = []
        self.start = self.measure()

    def measure(self) -> sc.Profile:
        """The gradient profile after the last step."""
        probes = self.data.train_x[:PROBES], self.data.train_y[:PROBES]
        self.end = sc.gradient_profile(self.model, *probes, self.data.loss_fn)
        return self.end

    def train(self, screen: Screen, epochs: int, seed: int) -> None:
        """Train, with a line for every epoch."""
        order, samples = torch.Generator().manual_seed(seed), len(self.data.train_x)
        optimizer = adamw(self.model, RATE)
        equalizer = sc.Equalizer(self.model, optimizer) if self.name == CORE else None
        training = Training(self.model, self.data.loss_fn, optimizer, equalizer)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            rows = torch.randperm(samples, generator=order)
            for batch in (rows[start : start + BATCH] for start in range(0, samples, BATCH)):
                began = time.perf_counter()
                yield self.data.train_x[batch], self.data.train_y[batch]
                self.seconds.append(time.perf_counter() - began)

        def on_epoch(loss: float) -> float:
            self.losses.append(loss)
            with torch.no_grad():
                self.accuracies.append(self.data.score(self.model.eval()(self.data.test_x)))
            accuracy = f"{_('accuracy')} {_percent(self.accuracies)}"
            spread = _("spread {spread}", spread=_number(self.measure().spread))
            number = _("epoch {number}", number=f"{len(self.losses):{len(str(epochs))}}")
            shown = [number, _("loss {loss}", loss=f"{loss:<7.3g}"), accuracy, spread]
            screen.print("   ".join(["", *shown]), soft_wrap=True)
            return loss

        training.run(batches, samples, Schedule(epochs), on_epoch)


def _closing_table(screen: Screen, runs: list[Run]) -> None:
    screen.heading(_("{depth} layers, {epochs}", depth=DEPTH, epochs=counted(len(runs[0].losses), "epoch")))
    zeros = [int((run.end.sizes == 0).sum()) for run in runs]
    rows = [
        [_("test accuracy"), *(_percent(run.accuracies) for run in runs)],
        [_("spread at start"), *(_number(run.start.spread) for run in runs)],
        [_("spread at end"), *(_number(run.end.spread) for run in runs)],
        [_("no gradient in"), *(_("{count} of {all}", count=count, all=DEPTH) for count in zeros)],
        [_("time per step"), *(f"{1000 * statistics.median(run.seconds):.1f} ms" for run in runs)],
    ]
    screen.table(["", _("plain"), CORE], rows)
    meaning = _("Spread: the largest gradient of a layer over the smallest; 1 is perfect. Guessing gives 10 %.")
    screen.say(meaning, above=1)


def _percent(accuracies: Sequence[float]) -> str:
    return f"{accuracies[-1]:.1f} %" if accuracies else "-"


def _number(spread: float) -> str:
    return _("infinite") if spread == math.inf else f"{spread:.4g}"
