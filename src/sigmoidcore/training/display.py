"""What the user sees: live where the output is a terminal, plain lines where it is a file or a pipe.

The screen is told what happened; it measures nothing. While a network trains it redraws at most four times a second,
and only then is the loss read.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sigmoidcore.observation.profile import Profile
from sigmoidcore.training.data import Kind, Task, task
from sigmoidcore.training.loop import Progress
from sigmoidcore.training.printable import printable

REDRAW = 0.25
"""Seconds between two redraws of a terminal, at least."""
LINE = 1.0
"""Seconds between two plain lines at the ends of epochs, at least; the last epoch always has one."""
WAIT = 10.0
"""Within a long epoch, seconds until a plain line says that training goes on."""
DECADES = 3
"""One level of the bars that show a profile: this many powers of ten."""

_INDENT = 3


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command, which has things to save, and not end the process as rich would."""
        raise


class Screen:
    """Prints to a terminal or a file.

    Args:
        console: where to.
        live: whether lines may be drawn again.
    """

    def __init__(self, console: Console, live: bool) -> None:
        self.console = console
        self.live = live

    @classmethod
    def of_stdout(cls) -> "Screen":
        """Live in a notebook, and in a terminal that can move its cursor. NO_COLOR and the width are respected."""
        terminal = sys.stdout.isatty()
        notebook = type(sys.stdout).__module__.startswith("ipykernel.") and find_spec("ipywidgets") is not None
        console = _Console(highlight=False, force_terminal=terminal, force_jupyter=notebook)
        return cls(console, live=notebook or (terminal and not console.is_dumb_terminal))

    @classmethod
    def of_file(cls, file: TextIO) -> "Screen":
        """Plain lines into a text file."""
        console = Console(
            file=file, highlight=False, no_color=True, force_terminal=False, force_jupyter=False, width=96
        )
        return cls(console, live=False)

    def heading(self, text: str) -> None:
        """A line that begins a part, with an empty line before it."""
        self.console.print()
        self.console.print(Text(printable(text), style="bold"))

    def say(self, text: str = "", style: str = "") -> None:
        """A paragraph, wrapped to the width."""
        width = max(20, self.console.width - _INDENT)
        for line in Text(printable(text), style=style).wrap(self.console, width):
            line.rstrip()
            self.console.print(Text(" " * _INDENT if line else "") + line)

    def verbatim(self, text: str, style: str = "") -> None:
        """A line that is meant to be copied, a path or a command: never cut or wrapped."""
        self.console.print(Text(" " * _INDENT + printable(text), style=style), soft_wrap=True)

    def listing(self, rows: Sequence[tuple[str, str]]) -> None:
        """Paths and what they hold, beside each other, or below where the width does not suffice."""
        left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
        beside = _INDENT + left + 2 + right <= self.console.width
        for path, what in rows:
            if beside:
                self.verbatim(f"{path:<{left}}  {what}")
            else:
                self.verbatim(path)
                self.say(f"  {what}", style="dim")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], strong: int | None = None) -> None:
        """A table; the first column at the left, the others at the right; column `strong` stands out."""
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1),
            collapse_padding=True,
            pad_edge=False,
            header_style="bold",
        )
        for i, column in enumerate(columns):
            style = "bold green" if i == strong else ""
            table.add_column(column, justify="right" if i else "left", style=style, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self.console.print(Padding(table, (0, 0, 0, _INDENT if self.console.width >= 60 else 0), expand=False))

    def profile(self, profile: Profile) -> None:
        """One line that shows the gradient profile."""
        for line in self.profile_line(profile).split("\n"):
            self.console.print(Text(" " * _INDENT) + line)

    @contextmanager
    def training(self, name: str, epochs: int) -> Iterator["Meter"]:
        """Show a training run while it lasts."""
        if self.live:
            with Live(
                Text(), console=self.console, auto_refresh=False, transient=True, redirect_stdout=False,
                redirect_stderr=False,
            ) as live:  # fmt: skip
                yield _LiveMeter(self, name, epochs, live)
        else:
            yield _PlainMeter(self, name, epochs)

    def profile_line(self, profile: Profile) -> Text:
        """The bars of a profile with their title, below each other where they do not fit beside each other."""
        title = f"gradient by {place(profile)}, 1 to {len(profile.names)}"
        width = min(50, self.console.width - _INDENT - 3)
        if self.console.width >= _INDENT + len(title) + 3 + 30:
            width = min(width, self.console.width - _INDENT - len(title) - 4)
        drawn = bars(profile, width, ascii_only=self.console.options.ascii_only)
        line = Text(f"{title} ")
        if len(title) + 3 + len(drawn) + _INDENT > self.console.width:
            line.append("\n")
        return line.append("|").append(drawn, style="cyan").append("|")


class Meter:
    """Follows one training run. `update` is cheap: it looks at the clock and, mostly, returns."""

    def __init__(self, screen: Screen, name: str, epochs: int) -> None:
        self.screen = screen
        self.name = name
        self.epochs = epochs
        self.spread = math.nan
        self.profile: Profile | None = None
        self.accuracy: float | None = None
        self.task = task(Kind.CLASSES)
        self._started = time.monotonic()
        self._began: tuple[float, int] | None = None
        self._shown = -math.inf

    def update(self, progress: Progress, spread: float, profile: Profile | None) -> None:
        """Take note of a step, and show it if it is time to."""
        now = time.monotonic()
        self.spread, self.profile = spread, profile
        if progress.accuracy is not None:
            self.accuracy = progress.accuracy
        if self._began is None:  # The first step sets things up and says nothing of the others.
            self._began = (now, progress.step)
        if self._due(progress, now - self._shown):
            self._shown = now
            self._show(progress, self._left(progress, now))

    def _spread(self) -> list[str]:
        """The spread of the profile; nothing where there is none, as of a network without cores."""
        return [] if self.profile is None else [f"spread {number(self.spread)}"]

    def _opened(self, progress: Progress) -> list[str]:
        """How many saturated neurons the Equalizer has opened so far; nothing where it has opened none."""
        history = progress.equalizer.history if progress.equalizer is not None else ()
        opened = sum(sample.neurons for sample in history)
        return [f"{count(opened, 'saturated neuron')} opened"] if opened else []

    def _speed(self, progress: Progress, now: float) -> list[str]:
        since, step = self._began or (now, progress.step)
        return [f"{(progress.step - step) / (now - since):.3g} steps/s"] if progress.step > step and now > since else []

    def _left(self, progress: Progress, now: float) -> str:
        since, step = self._began or (now, progress.step)
        if progress.step == step:
            return "time left: unknown yet"
        return f"{clock((now - since) / (progress.step - step) * (progress.steps - progress.step))} left"

    def _due(self, progress: Progress, since: float) -> bool:
        raise NotImplementedError

    def _show(self, progress: Progress, left: str) -> None:
        raise NotImplementedError


class _LiveMeter(Meter):
    """Redraws a few lines in place; `cells` that do not fit beside each other go below each other."""

    def __init__(self, screen: Screen, name: str, epochs: int, live: Live) -> None:
        super().__init__(screen, name, epochs)
        self._live = live

    def _due(self, progress: Progress, since: float) -> bool:
        return since >= REDRAW or progress.step == progress.steps

    def _show(self, progress: Progress, left: str) -> None:
        width = self.screen.console.width - _INDENT
        cells = [
            f"loss {float(progress.loss):.3g}",
            f"{self.task.metric_name} {reached(self.task, self.accuracy)}",
            *self._spread(),
            *self._opened(progress),
            *self._speed(progress, time.monotonic()),
            left,
        ]
        head = Text(f"{self.name}, epoch {progress.epoch + 1} of {self.epochs}", style="bold")
        # Padding ends the line, ProgressBar does not.
        bar = Padding(ProgressBar(total=progress.steps, completed=progress.step, width=min(width, 72)), 0)
        parts: list[RenderableType] = [head, bar, *(Text(line) for line in pack(cells, width))]
        if self.profile is not None:
            parts.append(self.screen.profile_line(self.profile))
        self._live.update(Padding(Group(*parts), (0, 0, 0, _INDENT)), refresh=True)


class _PlainMeter(Meter):
    """A line at the end of an epoch, at most one a second; and one now and then within a long epoch."""

    def _due(self, progress: Progress, since: float) -> bool:
        if progress.accuracy is not None:
            return since >= LINE or progress.step == progress.steps
        return min(since, time.monotonic() - self._started) >= WAIT

    def _show(self, progress: Progress, left: str) -> None:
        loss = float(progress.loss) if progress.epoch_loss is None else progress.epoch_loss
        digits = len(str(self.epochs))
        line = (
            f"epoch {progress.epoch + 1:>{digits}}/{self.epochs}  step {progress.step}/{progress.steps}  "
            f"loss {loss:.3g}  {self.task.metric_name} {reached(self.task, self.accuracy)}  "
            f"{'  '.join([*self._spread(), left])}"
        )
        self.screen.verbatim(line)


def place(profile: Profile) -> str:
    """What a place of the profile is: a layer, or a step of a recurrent one, whose name has it in brackets."""
    return "step" if all(name.endswith("]") for name in profile.names) else "layer"


def bars(profile: Profile, width: int, ascii_only: bool = False) -> str:
    """A profile as characters: the largest gradient is a full block, each level below is a factor 1,000, 0 is blank.

    A character stands for several layers if there are more layers than room, and shows the smallest of them.
    """
    levels = ".:-=+*%#" if ascii_only else "▁▂▃▄▅▆▇█"
    sizes = profile.sizes.tolist()
    largest = max((size for size in sizes if math.isfinite(size)), default=0.0)
    width = min(width, len(sizes))
    drawn = []
    for i in range(width):
        group = sizes[i * len(sizes) // width : (i + 1) * len(sizes) // width]
        if not all(map(math.isfinite, group)):
            drawn.append("!")
            continue
        smallest = min(group)
        level = (
            len(levels) - 1 + math.ceil(math.log10(smallest / largest) / DECADES) if smallest / (largest or 1) else -1
        )
        drawn.append(levels[level] if level >= 0 else levels[0] if smallest > 0 else " ")
    return "".join(drawn)


def pack(cells: Sequence[str], width: int, gap: str = "   ") -> list[str]:
    """Join cells to as few lines as hold them, in order."""
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + len(gap) + len(cell) <= width:
            lines[-1] += gap + cell
        else:
            lines.append(cell)
    return lines


def clock(seconds: float) -> str:
    """Seconds as 0:07 or 1:02:03."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(value: float | None) -> str:
    """An accuracy, or a dash where there is none yet."""
    return "-" if value is None else f"{value:.1f} %"


def reached(task: Task, value: float | None) -> str:
    """A metric's value, or a dash where there is none yet: an accuracy in percent, another one as it is."""
    return percent(value) if task.unit else "-" if value is None else f"{value:.3f}"


def count(number: int, what: str, plural: str | None = None) -> str:
    """A number of things, with their plural."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def number(value: float) -> str:
    """A spread with as many digits as say something."""
    if not math.isfinite(value):
        return {math.inf: "infinite"}.get(value, "not finite")
    return f"{value:.3f}" if value < 1.1 else f"{value:.3g}" if value < 1e4 else f"{value:.1e}"
