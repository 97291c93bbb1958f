"""Output for the user: live in a terminal or notebook, plain lines in a file or pipe.

Nothing is measured here. While a network trains, the screen is redrawn at most four times a second, and the loss is
read only then.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.containers import Lines
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sigmoidcore.training.data import Data, Task
from sigmoidcore.training.loop import Progress
from sigmoidcore.training.use.scores import ClassScore
from sigmoidcore.language import LANGUAGES, _, language
from unstuck.language.terminal import printable, wrapped
from unstuck.observation import Profile
from unstuck.wording import counted

REDRAW = 0.25
"""Least seconds between two redraws of a terminal."""
LINE = 1.0
"""Least seconds between two plain lines at the ends of epochs; the last epoch always has one."""
DECADES = 3
"""Powers of ten for each level of the bars of a profile."""
MOST_CLASSES = 30
"""Classes in a table; the JSON of an evaluation has all."""
_INDENT = 3


def _text(text: str, style: str = "") -> Text:
    """Text without markup and without characters that could control a terminal."""
    return Text(printable(text), style=style)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise, because the command still has to save results; rich would exit."""
        raise


class Screen:
    """Prints to a terminal or a file; `live` says whether lines can be redrawn."""

    def __init__(self, console: Console, live: bool) -> None:
        self.console = console
        self.live = live

    @classmethod
    def of_stdout(cls) -> "Screen":
        """Live in a notebook, and in a terminal that can move its cursor. Respects NO_COLOR and the width."""
        terminal = sys.stdout.isatty()
        notebook = type(sys.stdout).__module__.startswith("ipykernel.") and find_spec("ipywidgets") is not None
        console = _Console(highlight=False, force_terminal=terminal, force_jupyter=notebook)
        return cls(console, live=notebook or (terminal and not console.is_dumb_terminal))

    @classmethod
    def of_file(cls, file: TextIO) -> "Screen":
        """Plain lines into a text file."""
        plain = {"highlight": False, "no_color": True, "force_terminal": False, "force_jupyter": False}
        return cls(Console(file=file, width=96, **plain), live=False)  # type: ignore[arg-type]

    def heading(self, text: str) -> None:
        """The first line of a section, after an empty line."""
        self.console.print()
        self.console.print(_text(text, "bold"))

    def say(self, text: str = "", style: str = "") -> None:
        """A paragraph, wrapped to the width."""
        room = max(20, self.console.width - _INDENT)
        lines = _text(text, style).wrap(self.console, room)
        if language() != LANGUAGES[0]:  # rich breaks lines at spaces, which Chinese does not have
            lines = Lines(Text(line, style=style) for line in wrapped(text, room) or [""])
        for line in lines:
            line.rstrip()
            self.console.print(Text(" " * _INDENT if line else "") + line)

    def verbatim(self, text: str, style: str = "") -> None:
        """A path or a command to copy: never cut or wrapped."""
        self.console.print(_text(" " * _INDENT + text, style), soft_wrap=True)

    def listing(self, rows: Sequence[tuple[str, str]]) -> None:
        """Paths with their contents beside them, or below in a narrow terminal."""
        left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
        beside = _INDENT + left + 2 + right <= self.console.width
        for path, what in rows:
            self.verbatim(f"{path:<{left}}  {what}" if beside else path)
            if not beside:
                self.say(f"  {what}", style="dim")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], strong: int | None = None) -> None:
        """A table; the first column is left-aligned, the others right-aligned, and column `strong` is highlighted."""
        self.console.print(self._table(columns, rows, strong))

    def records(self, rows: Sequence[Mapping[str, str]], optional: Sequence[str], heads: Mapping[str, str]) -> Padding:
        """A table of rows by column; if the terminal is narrow, without some optional columns, the first ones first."""
        columns = list(rows[0])
        for dropped in optional:
            texts = [[heads.get(name, name), *(row[name] for row in rows)] for name in columns]
            if sum(max(map(cell_len, column)) + 2 for column in texts) <= self.console.width - 1:
                break
            columns = [name for name in columns if name != dropped]
        cells = [[row[name] for name in columns] for row in rows]
        return self._table([heads.get(name, name) for name in columns], cells)

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], strong: int | None = None) -> Padding:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, pad_edge=False,
            header_style="bold",
        )  # fmt: skip
        for i, column in enumerate(columns):
            style = "bold green" if i == strong else ""
            table.add_column(_text(column), justify="right" if i else "left", style=style, overflow="fold")
        for row in rows:
            table.add_row(*map(_text, row))
        return Padding(table, (0, 0, 0, _INDENT if self.console.width >= 60 else 0), expand=False)

    def classes(self, classes: Sequence[ClassScore]) -> None:
        """A table of classes, at most `MOST_CLASSES`."""
        rows = [
            [c.name, f"{c.samples:,}", *("-" if x != x else f"{100 * x:.1f} %" for x in (c.precision, c.recall, c.f1))]
            for c in classes[:MOST_CLASSES]
        ]
        self.table([_("class"), _("samples"), _("precision"), _("recall"), "F1"], rows)
        if len(classes) > MOST_CLASSES:
            more = f"{len(classes) - MOST_CLASSES:,}"
            self.say(_("and {count} more classes: sigmoid-core evaluate RUN --json -", count=more))

    def profile(self, profile: Profile) -> None:
        """The gradient profile as bars."""
        for line in self.profile_line(profile).split("\n"):
            self.console.print(Text(" " * _INDENT) + line)

    def profile_line(self, profile: Profile) -> Text:
        """The bars of a profile after their title, or below it in a narrow terminal."""
        title = _("gradient by layer, 1 to {count}", count=len(profile.names))
        if place_in(profile) == "step":
            title = _("gradient by step, 1 to {count}", count=len(profile.names))
        width = self.console.width - _INDENT - 3
        beside = width - cell_len(title) - 1
        drawn = bars(profile, min(50, beside if beside >= 29 else width), ascii_only=self.console.options.ascii_only)
        line = Text(f"{title} " if len(drawn) <= beside else f"{title}\n")
        return line.append("|").append(drawn, style="cyan").append("|")

    def redrawn(self) -> Live:
        """Lines that are redrawn as a training goes on, and that disappear at its end."""
        quiet = {"auto_refresh": False, "redirect_stdout": False, "redirect_stderr": False}
        return Live(console=self.console, transient=True, **quiet)  # type: ignore[arg-type]

    def bar(self, done: float, *below: RenderableType, above: Sequence[RenderableType] = ()) -> Padding:
        """A bar of which this share is done, between lines."""
        bar = ProgressBar(total=1.0, completed=done, width=min(self.console.width - _INDENT, 72))
        # A bar does not end its line; its padding does.
        return Padding(Group(*above, Padding(bar, expand=False), *below), (0, 0, 0, _INDENT))

    @contextmanager
    def training(self, name: str, epochs: int, task: Task) -> Iterator["Meter"]:
        """Show a training; call `update` of the meter after every step."""
        if not self.live:
            yield Meter(self, name, epochs, task)
            return
        with self.redrawn() as live:
            yield Meter(self, name, epochs, task, live)


class Meter:
    """Shows a training: lines that are redrawn in a terminal, or a line for each epoch, at most one a second."""

    def __init__(self, screen: Screen, name: str, epochs: int, task: Task, live: Live | None = None) -> None:
        self.screen, self.name, self.epochs, self.task = screen, name, epochs, task
        self._live = live
        self._metric: float | None = None
        self._first: tuple[float, int] | None = None
        self._shown = -math.inf

    def update(self, progress: Progress, spread: float, profile: Profile) -> None:
        """Show a step if it is time to; cheap otherwise."""
        now = time.monotonic()
        ended = progress.accuracy is not None
        if ended:
            self._metric = progress.accuracy
        self._first = self._first or (now, progress.step)  # the first step sets things up: its time is not typical
        wait = LINE if self._live is None else REDRAW
        if (self._live is None and not ended) or (now - self._shown < wait and progress.step < progress.steps):
            return
        self._shown = now
        loss = float(progress.loss if progress.epoch_loss is None or self._live else progress.epoch_loss)
        metric = f"{metric_name(self.task)} {metric_text(self.task, self._metric)}"
        sizes = [_("loss {loss}", loss=f"{loss:.3g}"), metric, _("spread {spread}", spread=number(spread))]
        cells = [*sizes, self._time_left(progress, now)]
        if self._live is not None:
            self._live.update(self._view(progress, cells, profile), refresh=True)
        else:
            number_of = f"{progress.epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
            epoch = _("epoch {number}", number=number_of)
            self.screen.verbatim("  ".join([epoch, *cells]))

    def _time_left(self, progress: Progress, now: float) -> str:
        since, first = self._first or (now, progress.step)
        steps = progress.step - first
        if not steps:
            return _("time left: unknown yet")
        return _("{time} left", time=clock((now - since) / steps * (progress.steps - progress.step)))

    def _view(self, progress: Progress, cells: Sequence[str], profile: Profile) -> Padding:
        place = {"name": self.name, "epoch": progress.epoch + 1, "epochs": self.epochs}
        title, numbers = _text(_("{name}, epoch {epoch} of {epochs}", **place), "bold"), Text("   ".join(cells))
        done = progress.step / progress.steps
        return self.screen.bar(done, numbers, self.screen.profile_line(profile), above=[title])


def place_in(profile: Profile) -> str:
    """The unit of a profile: a layer, or a step of a recurrent layer (its name ends in brackets)."""
    return "step" if all(name.endswith("]") for name in profile.names) else "layer"


def bars(profile: Profile, width: int, ascii_only: bool = False) -> str:
    """A profile as characters: a full block for the largest gradient, a level less for a factor 1,000, blank for 0.

    If there are more layers than characters, each character shows the smallest gradient of several layers.
    """
    levels = ".:-=+*%#" if ascii_only else "▁▂▃▄▅▆▇█"
    sizes = profile.sizes.tolist()
    largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
    width = min(width, len(sizes))
    drawn = ""
    for i in range(width):
        group = sizes[i * len(sizes) // width : (i + 1) * len(sizes) // width]
        if not all(map(math.isfinite, group)):
            drawn += "!"
        elif min(group) == 0:
            drawn += " "
        else:
            ratio = min(group) / largest
            lower = math.ceil(math.log10(ratio) / DECADES) if ratio else -len(levels)
            drawn += levels[max(0, len(levels) - 1 + lower)]
    return drawn


def clock(seconds: float) -> str:
    """Seconds as 0:07 or 1:02:03."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(value: float | None) -> str:
    """An accuracy, or a dash before the first epoch."""
    return "-" if value is None else f"{value:.1f} %"


def metric_name(task: Task) -> str:
    """The name of the metric in the user's language."""
    return _("accuracy") if task.unit else task.metric_name


def metric_text(task: Task, value: float | None) -> str:
    """An accuracy in percent, another metric as a number, or a dash before the first epoch."""
    return percent(value) if task.unit else "-" if value is None else f"{value:.3f}"


def number(value: float) -> str:
    """A spread with significant digits only."""
    if not math.isfinite(value):
        return _("infinite") if value == math.inf else _("not finite")
    return f"{value:.3f}" if value < 1.1 else f"{value:.3g}" if value < 1e4 else f"{value:.1e}"


def outputs_text(data: Data) -> str:
    """The network's outputs, for a heading."""
    return counted(len(data.classes), "class", "classes") if data.kind.is_class else counted(data.outputs, "number")
