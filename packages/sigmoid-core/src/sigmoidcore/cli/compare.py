"""`sigmoid-core compare`: Sigmoid Core and other methods, side by side on the same data and budget."""

import contextlib
import dataclasses
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from sigmoidcore.peers import find, names
from sigmoidcore.peers.comparison import Budget, Comparison
from sigmoidcore.peers.report import figures, heads, markdown, notes, rows
from sigmoidcore.peers.standings import Setting
from sigmoidcore.plots.style import save_figure
from sigmoidcore.training.data import InputError, load
from sigmoidcore.training.display import REDRAW, Screen, clock, metric_text
from sigmoidcore.training.loop import Progress
from sigmoidcore.training.networks import ARCHITECTURES, kind_for
from sigmoidcore.training.options import Options, flag, types_of
from sigmoidcore.training.runs.folder import check_writable, environment
from sigmoidcore.training.runs.lock import Lock
from sigmoidcore.training.session import CtrlC, denormals_flushed, threads
from unstuck.files import write_file
from sigmoidcore.language import _
from unstuck.language.errors import Stopped
from unstuck.wording import counted, in_a_row

RESULTS, TABLE = "results.json", "results.md"
OPTIONAL = ("parameters", "basin", "in all", "knob", "networks")
"""Columns that a narrow terminal does not show, the first ones first."""
_FIELDS = {field.name: field for field in dataclasses.fields(Options)}


def _option(name: str) -> Any:
    """An option that `train` has, too."""
    metadata = _FIELDS[name].metadata
    return typer.Option(flag(name), metavar=metadata["metavar"] or "|".join(types_of(name)[1]), help=metadata["help"])


def _parsed(given: dict[str, Any]) -> Options:
    return Options.parse(given, command="compare", shown={"lr": "rates"})


METHODS = typer.Option("--methods", metavar="NAME[,NAME]", help="Names that --list shows, or your own module:function.")
BUDGET = typer.Option(
    "--budget",
    metavar="TIME",
    show_default=False,
    help="Time to build and train a network, as 60s or 5m, not --epochs.",
)
RATES = typer.Option(
    "--rates", metavar="RATE[,RATE]", show_default="5 rates", help="Learning rates of methods that have no rule for it."
)
OUTPUT = typer.Option("--output", "-o", metavar="FOLDER", show_default="comparison-DATA", help="Folder of the results.")


def compare(
    methods: Annotated[str, METHODS] = "sigmoid-core,sigmoid,tanh-orthogonal,relu-he,resnet",
    data: Annotated[str, _option("data")] = "digits",
    target: Annotated[list[str] | None, _option("target")] = None,
    network: Annotated[str, _option("network")] = "mlp",
    depth: Annotated[str, typer.Option(metavar="N[,N]", help="Hidden layers.")] = "30",
    width: Annotated[str, _option("width")] = "64",
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Number of seeds, from 0.")] = 1,
    epochs: Annotated[str, _option("epochs")] = "10",
    budget: Annotated[str | None, BUDGET] = None,
    rates: Annotated[str | None, RATES] = None,
    batch_size: Annotated[str, _option("batch_size")] = "100",
    cores: Annotated[str, _option("threads")] = "1",
    output: Annotated[Path | None, OUTPUT] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the methods and their sources.")] = False,
) -> int:
    """Train Sigmoid Core and other methods side by side; the others at many rates, and the best one counts."""
    screen = Screen.of_stdout()
    if listing:
        screen.console.print(screen.records([_described(name) for name in names()], OPTIONAL, heads()))
        return 0
    shared = {"data": data, "network": network, "width": width, "epochs": epochs, "batch_size": batch_size}
    options = _parsed({**shared, "target": target or None, "threads": cores})
    depths = [_parsed({"depth": text}).depth or 0 for text in depth.split(",")]
    tried = [_parsed({"lr": text}).lr for text in rates.split(",")] if rates else []
    limits = Budget(options.width, options.batch_size, options.epochs, _seconds(budget))
    loaded = load(options.data, target=options.target)
    kind = kind_for(loaded.shape) if options.network == "auto" else options.network
    loaded = loaded.arranged(ARCHITECTURES[kind].arrange)
    found = [find(name.strip()) for name in methods.split(",")]
    for method in found:
        if kind not in method.kinds:
            raise InputError(
                "{name} makes {kinds} networks only: give another --network",
                name=method.name,
                kinds=", ".join(method.kinds),
            )
    folder = output or Path(f"comparison-{loaded.file_name}")
    check_writable(folder)
    with CtrlC() as ctrl_c, threads(options.threads), denormals_flushed(), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback(Lock(folder).release)
        comparison = Comparison(
            found, loaded, limits, depths=depths, seeds=range(seeds), rates=tuple(tried), file=folder / RESULTS,
            network=kind, **environment(),
        )  # fmt: skip
        stopped = _interrupted(screen, comparison, ctrl_c)
        _report(screen, comparison, folder)
    if stopped:
        left = counted(len(comparison.missing), "training")
        raise Stopped("interrupted, {left} left: the same command resumes", ctrl_c.code, left=left)
    return 0


def _interrupted(screen: Screen, comparison: Comparison, ctrl_c: CtrlC) -> bool:
    """Train what is missing: a table that is redrawn in a terminal, or a line for each training."""
    total, shown = len(comparison.settings), 0.0
    live = screen.redrawn() if screen.live else None

    def text(setting: Setting) -> str:
        knob = comparison.methods[setting.method].knob_text(setting.knob)
        rate, seed = _("rate {rate:g}", rate=setting.rate), _("seed {seed}", seed=setting.seed)
        return in_a_row(filter(None, (setting.method, counted(setting.depth, "layer"), knob, rate, seed)))

    def on_step(setting: Setting, progress: Progress) -> None:
        nonlocal shown
        ctrl_c.check()
        if live is not None and time.monotonic() - shown >= REDRAW:
            shown, done = time.monotonic(), total - len(comparison.missing)
            place = {"count": done, "all": total, "setting": text(setting), "time": clock(progress.seconds)}
            line = Text(_("{count} of {all} trainings; {setting}: {time}", **place), no_wrap=True, overflow="crop")
            table = [screen.records(rows(comparison), OPTIONAL, heads())] if done else []
            live.update(Group(*table, "", screen.bar(done / total, line)), refresh=True)

    try:
        with live or contextlib.nullcontext():
            for trial in comparison.run(on_step):
                if live is None:
                    metric = (
                        _("not finite") if trial.metric is None else metric_text(comparison.data.task, trial.metric)
                    )
                    place = f"{total - len(comparison.missing):>{len(str(total))}}/{total}"
                    result = {"setting": text(trial.setting), "metric": metric, "seconds": trial.seconds}
                    screen.verbatim(_("{place}  {setting}: {metric} in {seconds:.1f} s", place=place, **result))
                ctrl_c.check()
    except KeyboardInterrupt:
        return True
    return False


def _report(screen: Screen, comparison: Comparison, folder: Path) -> None:
    """Show the table; write it and the figures."""
    if not comparison.standings:
        return
    screen.say()
    screen.console.print(screen.records(rows(comparison), OPTIONAL, heads()))
    for note in ("", *notes(comparison)):
        screen.say(note, style="dim")
    files = {folder / RESULTS: _("every training"), folder / TABLE: _("the table")}
    write_file(folder / TABLE, markdown(comparison).encode())
    drawn = {
        "by_seconds": _("by seconds"), "by_rate": _("by rate"), "by_depth": _("by depth"),
        "profiles": _("gradients before training"),
    }  # fmt: skip
    for name, figure in figures(comparison).items():
        files[save_figure(figure, folder / f"{name}.png")] = drawn[name]
    screen.heading(_("Written"))
    screen.listing([(str(path), what) for path, what in files.items()])


def _described(name: str) -> dict[str, str]:
    method = find(name)
    knob = f"{method.knob} {', '.join(f'{value:g}' for value in method.knobs)}" if method.knob else "-"
    settings, kinds = str(len(method.settings())), ", ".join(method.kinds)
    return {"method": name, "settings": settings, "knob": knob, "networks": kinds, "source": method.source}


def _seconds(budget: str | None) -> float | None:
    if budget is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", budget)
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if seconds == 0:
        raise InputError("Invalid value for '--budget': {budget!r} is not a time such as 60s or 5m", budget=budget[:40])
    return seconds
