"""Write gallery.md and modern.md, beside this script, with figures: broken networks of people, and their repairs.

.venv/bin/python docs/gallery.py            # trains all programs and writes pages and figures; two minutes
.venv/bin/python docs/gallery.py --check    # trains them and writes nothing; exit with 1 if a page is out of date

gallery.toml and modern.toml hold the words and the code. Diagnoses and curves come from the programs of the half
"development" of benchmarks/real_failures, and of benchmarks/modern_failures. Their numbers differ between processors,
so that the check leaves numbers out.
"""

import difflib
import math
import re
import sys
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from svg import svg

import unstuck
import unstuck.remedies
from sigmoidcore.plots.style import PALETTE, legend_below, new_figure, style_axes
from unstuck.findings import Finding, Severity, Trial
from unstuck.report.text import finding_lines
from unstuck.trials import verdict

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "benchmarks"))

import modern_failures  # noqa: E402
import real_failures  # noqa: E402
from real_failures import Program  # noqa: E402

COLUMNS = 80
FAR = 30
"""Largest over smallest loss from which on an axis is logarithmic."""
SCORES = {
    "accuracy": ("Accuracy", "{:.0%}"),
    "overlap": ("Overlap of the masks", "{:.0%}"),
    "explained": ("Variance explained", "{:.0%}"),
    "correlation": ("Correlation", "{:.2f}"),
    "concordance": ("Concordance", "{:.0%}"),
    "spread": ("Spread of the features", "{:.2f}"),
    "error": ("Error", "{:.3g}"),
}
HEAD = """# Gallery of broken networks

<!-- Written by docs/gallery.py from gallery.toml and benchmarks/real_failures; a test compares page and programs. -->

{count} mistakes that people asked about in public, each rebuilt in a small network that trains in a second; symptoms
are paraphrased. Each section shows the accepted repair, the finding of `unstuck.diagnose` (one batch) or
`unstuck.Monitor` (a training, recorded with `trials=True`) that names the cause, and the losses of both trainings.
Where the curves agree, only the score below the figure shows the mistake.

To find your own mistake, [run the diagnosis](diagnosis.md), or [watch your script](watch.md) without a line of code.
These networks were chosen because the diagnosis names their cause; how often it does is
[measured](benchmarks.md#diagnosis). Language models, adapters and diffusion have [a page of their own](modern.md).

"""
MODERN_HEAD = """# {count} modern trainings that go wrong

<!-- Written by docs/gallery.py from modern.toml and benchmarks/modern_failures; a test compares page and programs. -->

Fine-tuning, adapters, preferences, diffusion: mistakes that people asked about in public, as in the
[gallery](gallery.md). Each section shows the accepted repair, the finding of `unstuck train.py` that names the cause,
and the losses of both trainings. If there was a [trial](diagnosis.md#trials), a figure at the right has its losses.

These trainings were chosen because the diagnosis names their cause; how often it does is
[measured](benchmarks.md#diagnosis).

"""


@dataclass(frozen=True, eq=False)
class Gallery:
    """A page: its name, its first words, the programs, and the rules that name their causes."""

    name: str
    head: str
    programs: list[Program]
    rules: Mapping[Any, tuple[str, ...]]
    trials: bool = False

    @property
    def page(self) -> Path:
        """The page itself."""
        return DOCS / f"{self.name}.md"

    @property
    def figures(self) -> Path:
        """The folder of its figures."""
        return DOCS / "figures" / self.name

    def exhibits(self) -> list["Exhibit"]:
        """Everything in its file of words."""
        words = tomllib.loads((DOCS / f"{self.name}.toml").read_text(encoding="utf-8"))
        return [Exhibit(self, **entry) for entry in words["exhibit"]]


GALLERIES = (
    Gallery("gallery", HEAD, real_failures.PROGRAMS, real_failures.RULES),
    Gallery("modern", MODERN_HEAD, modern_failures.PROGRAMS, modern_failures.RULES, trials=True),
)


@dataclass(frozen=True)
class Exhibit:
    """A program of a collection, and the words about it."""

    gallery: Gallery
    group: str
    title: str
    program: str
    symptom: str
    score: str
    code: str
    profile: bool = False

    @property
    def slug(self) -> str:
        """Anchor of the section and name of the figure."""
        return slug(self.title)

    @property
    def source(self) -> Program:
        """The program itself."""
        (found,) = (program for program in self.gallery.programs if program.name == self.program)
        assert self.gallery.trials or found.half == "development", f"{self.program} is held out"
        return found


@dataclass(frozen=True)
class Run:
    """A training: the first loss of each step, the score at its end, and the gradient profile before it."""

    losses: list[float]
    score: float
    profile: list[float]


@dataclass(frozen=True)
class Report:
    """What a user reads, and the call that printed it, if a page has several."""

    call: str
    finding: Finding


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


def first_batch(program: Program, repaired: bool) -> unstuck.Diagnosis:
    """What `diagnose` says before the training."""
    training = program.training(repaired)
    inputs, targets = training.batch(0)
    return unstuck.diagnose(training.model, (inputs,), targets, training.loss)


def watched(program: Program, trials: bool) -> unstuck.Diagnosis:
    """What a `Monitor` says after the training, which it records as the command does; with its trials or without."""
    training = program.training(repaired=False)
    with unstuck.Monitor(training.model, every=max(1, program.steps // 20), trials=True) as monitor:
        training.run(program.steps)
    return monitor.diagnosis(None if trials else 0.0)


def report(exhibit: Exhibit) -> Report:
    """The first error or warning that names the cause, of one batch or else of the training."""
    program, trials = exhibit.source, exhibit.gallery.trials
    rules = {rule for cause in program.causes for rule in exhibit.gallery.rules[cause]}
    calls = [("`unstuck.Monitor` ", lambda: watched(program, trials))]
    if not trials:
        calls.insert(0, ("`unstuck.diagnose` ", lambda: first_batch(program, repaired=False)))
    for call, diagnose in calls:
        for found in diagnose().findings:
            proved = found.trial is not None and found.trial.proved
            finding = found if proved else replace(found, trial=None)
            if finding.rule in rules and finding.severity is not Severity.NOTE:
                return Report("Found " if trials else call, finding)
    raise RuntimeError(f"the diagnosis does not name the cause of {program.name!r}: leave it out")


def run(exhibit: Exhibit, repaired: bool) -> Run:
    """Train for the program's steps."""
    program = exhibit.source
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        training = program.make(repaired)
        losses: list[float] = []
        batch, loss = training.batch, training.loss

        def next_batch(number):
            losses.append(math.nan)
            return batch(number)

        def noted(outputs, targets):
            value = loss(outputs, targets)
            if math.isnan(losses[-1]):
                losses[-1] = value.item()
            return value

        training.batch, training.loss = next_batch, noted
        score = training.run(program.steps)
    sizes = [layer.gradient for layer in first_batch(program, repaired).layers] if exhibit.profile else []
    return Run(losses, score, [size for size in sizes if size is not None])


def draw(exhibit: Exhibit, runs: dict[str, Run], trial: Trial | None) -> Figure:
    """Losses of the broken and the repaired training; beside them those of the trial, or the gradient of each layer."""
    two = exhibit.profile or trial is not None
    figure = new_figure(6.4 if two else 4.4, 2.7)
    panels = figure.subplots(1, 2 if two else 1, squeeze=False)[0]
    for name, colour, line in (("broken", "vermilion", "-"), ("repaired", "blue", "--")):
        options = {"color": PALETTE[colour], "linestyle": line, "linewidth": 2}
        label = name if all(map(math.isfinite, runs[name].losses)) else f"{name}, until inf or NaN"
        panels[0].plot(range(1, len(runs[name].losses) + 1), runs[name].losses, label=label, **options)
        if exhibit.profile:
            sizes = [size or math.nan for size in runs[name].profile]
            panels[1].semilogy(range(1, len(sizes) + 1), sizes, marker=".", **options)
        elif trial is not None:
            losses = trial.before if name == "broken" else trial.after
            places = [i * trial.steps / max(1, len(losses) - 1) for i in range(len(losses))]
            panels[1].plot(places, losses, **options)
    scale(panels[0], [loss for one in runs.values() for loss in one.losses if math.isfinite(loss)])
    style_axes(panels[0], "Training loss", "step", "")
    if exhibit.profile:
        style_axes(panels[1], "Gradient before training", "layer, input to loss", "")
    elif trial is not None:
        scale(panels[1], [loss for loss in (*trial.before, *trial.after) if math.isfinite(loss)])
        style_axes(panels[1], "Trial: as it is, and with the edit", "step", "")
    legend_below(figure, ncols=2)
    return figure


def scale(axes: Axes, losses: list[float]) -> None:
    """A logarithmic axis for losses of very different size."""
    sizes = sorted(map(abs, losses))
    if min(losses) > 0 and sizes[-1] > FAR * sizes[0]:
        axes.set_yscale("log")
    elif min(losses) <= 0 and sizes[-1] > FAR * sizes[len(sizes) // 4]:
        axes.set_yscale("symlog", linthresh=1)


def table(reports: dict[Exhibit, Report]) -> str:
    """The contents: cause and section."""
    rows = [f"| {found.finding.name} | [{exhibit.title}](#{exhibit.slug}) |" for exhibit, found in reports.items()]
    return "\n".join(["| cause | what it was |", "|---|---|", *rows])


def section(exhibit: Exhibit, found: Report, runs: dict[str, Run]) -> str:
    """Symptom, code, report, curves and repair of a network."""
    program, rule = exhibit.source, f"{found.finding.rule} {found.finding.name}"
    name, form = SCORES[exhibit.score]
    sign = -1 if exhibit.score == "error" else 1
    scores = {key: form.format(sign * one.score).replace("%", " %") for key, one in runs.items()}
    losses = "; ".join(f"{key}: {one.losses[0]:.3g} to {one.losses[-1]:.3g}" for key, one in runs.items())
    figure = f"figures/{exhibit.gallery.name}/{exhibit.slug}.svg"
    file = f"benchmarks/{program.make.__module__.replace('.', '/')}.py"
    return "\n\n".join(
        [
            f"### {exhibit.title}",
            f"*{exhibit.symptom}* ([source]({program.source}))",
            f"```diff\n{exhibit.code.strip(chr(10))}\n```",
            f"{found.call}([{found.finding.rule}](rules.md#{slug(rule)})):",
            "```text\n" + "\n".join(finding_lines(found.finding, COLUMNS)) + "\n```",
            f"![Loss, {losses}]({figure})",
            f"{name} after {program.steps} steps: {scores['broken']}, repaired {scores['repaired']} (`{file}`).",
        ]
    )


def page(gallery: Gallery, measured: dict[Exhibit, tuple[Report, dict[str, Run]]]) -> str:
    """The whole page."""
    contents = table({exhibit: found for exhibit, (found, _) in measured.items()})
    parts = [gallery.head.format(count=len(measured)) + contents]
    for group, members in groupby(measured, key=lambda exhibit: exhibit.group):
        parts += [f"## {group}", *(section(exhibit, *measured[exhibit]) for exhibit in members)]
    return "\n\n".join(parts) + "\n"


def without_numbers(text: str) -> list[str]:
    """The words of a page, for a comparison between processors, without numbers and without the layers of findings."""
    text = re.sub(r"^  in (?:.*\n)+?(?=  →)", "", text, flags=re.MULTILINE)
    text = re.sub(r"^```text\n.*?^```", lambda found: re.sub("`[^`\n]+`", "#", found[0]), text, flags=re.M | re.S)
    return re.sub(r"\d[\d.,]*(?:e[-+]\d+)?|\b(?:nan|inf)\b", "#", text).split()


def measure(gallery: Gallery) -> Iterator[tuple[Exhibit, tuple[Report, dict[str, Run]]]]:
    """Diagnose and train every program."""
    for exhibit in gallery.exhibits():
        runs = {"broken": run(exhibit, repaired=False), "repaired": run(exhibit, repaired=True)}
        yield exhibit, (report(exhibit), runs)


def main() -> None:
    """Write or check."""
    unstuck.remedies.extensions = tuple  # plain PyTorch, as without Sigmoid Core
    verdict.SECONDS = 600.0  # however busy the machine is
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.simplefilter("ignore")  # broken programs cause warnings
    for gallery in GALLERIES:
        measured = dict(measure(gallery))
        if "--check" in sys.argv[1:]:
            words = [without_numbers(text) for text in (gallery.page.read_text("utf-8"), page(gallery, measured))]
            changes = [line for line in difflib.ndiff(*words) if line[0] in "-+"]
            if changes:
                sys.exit(f"{gallery.page.name} is out of date; run docs/gallery.py: {' '.join(changes[:40])}")
            continue
        gallery.figures.mkdir(exist_ok=True)
        for exhibit, (found, runs) in measured.items():
            figure = svg(draw(exhibit, runs, found.finding.trial))
            (gallery.figures / f"{exhibit.slug}.svg").write_text(figure, encoding="utf-8")
        gallery.page.write_text(page(gallery, measured), encoding="utf-8")


if __name__ == "__main__":
    main()
