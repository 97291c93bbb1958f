"""`sigmoid-core diagnose`: measures one network on one batch, says what is wrong, and exits as CI wants it."""

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import nn
from torch.nn.parameter import UninitializedParameter

import sigmoidcore as sc
from sigmoidcore.cli.subject import Given, given
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.report.terminal import writable
from sigmoidcore.diagnosis.rules import RULES
from sigmoidcore.training.display import count
from sigmoidcore.training.runs.session import bad_input, interrupted
from sigmoidcore.training.user_code import raised_here, said

WAIT = 5.0
"""Where no terminal is, seconds until a line says what takes so long."""
NEVER = "never"
SEVERITIES = {"error": (Severity.ERROR,), "warning": (Severity.ERROR, Severity.WARNING)}


def _condition(values: list[str] | None) -> list[str] | None:
    for value in values or ():
        known = value in (*SEVERITIES, NEVER) or (value and any(rule.id.startswith(value) for rule in RULES))
        if not known:
            groups = ", ".join(sorted({rule.id[:3] for rule in RULES}))
            raise typer.BadParameter(
                f"{value!r} is neither error, warning, never, nor the beginning of a rule ({groups}...)."
            )
    if values and NEVER in values and len(values) > 1:
        raise typer.BadParameter("never stands alone.")
    return values


def diagnose(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            show_default=False,
            help="package.module:callable, which is imported from this folder and run: your own code, that returns "
            "(model, inputs, targets, loss_fn) or (model, inputs). Or the folder of a run of `sigmoid-core train`.",
        ),
    ],
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the diagnosis as JSON; - is standard output.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one page that opens without a network.")
    ] = None,
    training: Annotated[
        bool,
        typer.Option("--training", help="Run the model in training mode, dropout and all; nothing of it is changed."),
    ] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            show_default="error",
            callback=_condition,
            metavar="WHAT",
            help="Exit with 1 on: error, warning (and errors), never, or the rules that begin so (SC1). Repeat it for "
            "several.",
        ),
    ] = None,
) -> int:
    """Find where a network loses its gradient, on one batch; with an exit code for CI."""
    if str(html) == "-":
        raise bad_input("--html - would mix the page with the report: give the name of a file, such as report.html")
    files = [Path(file) for file in (html, json) if file is not None and str(file) != "-"]
    _check_writable(files)
    try:
        with _waiting() as waiting:
            waiting.begin(f"getting {target}")
            subject = given(target)
            waiting.begin(f"measuring {_size(subject.model)}")
            diagnosis = _diagnosed(subject, training)
            waiting.begin("writing")
            text = diagnosis.to_json() if json == "-" else str(diagnosis)
            _write(diagnosis, html, json)
    except KeyboardInterrupt as error:
        raise interrupted("interrupted") from error
    print(writable(text))
    if json != "-":
        for file in files:
            print(writable(f"written: {file}"))
    return int(any(_fails(finding, fail_on or ["error"]) for finding in diagnosis.findings))


def _fails(finding: Finding, conditions: Sequence[str]) -> bool:
    """Whether one of the conditions means this finding; a rule that is named counts whatever its severity is."""
    return any(
        finding.severity in SEVERITIES[condition] if condition in SEVERITIES else finding.rule.startswith(condition)
        for condition in conditions
    )


def _diagnosed(subject: Given, training: bool) -> Diagnosis:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # for what the model prints
            diagnosis = sc.diagnose(subject.model, subject.inputs, subject.targets, subject.loss_fn, training=training)
    except Exception as error:
        ours = isinstance(error, ValueError | TypeError) and raised_here(error)
        reasons = [str(error) if ours else f"measuring raised {said(error)}", *getattr(error, "__notes__", ())]
        raise bad_input(f"{subject.name}: {_for_the_command('; '.join(reasons))}") from error
    if not diagnosis.measurement.layers and not diagnosis.findings:
        why = diagnosis.measurement.notes or ("nothing that it calls has weights or is an activation",)
        raise bad_input(f"{subject.name}: no layers of the model were seen: {'; '.join(why)}")
    return diagnosis


def _for_the_command(reason: str) -> str:
    """With the option in place of the argument."""
    return reason.replace("training=True runs", "--training runs")


def _size(model: nn.Module) -> str:
    modules = sum(1 for module in model.modules() if not list(module.children()))
    parameters = sum(p.numel() for p in model.parameters() if not isinstance(p, UninitializedParameter))
    return f"{count(modules, 'module')}, {count(parameters, 'parameter')}"


def _check_writable(files: Sequence[Path]) -> None:
    """Before a long measurement, not after it."""
    for path in files:
        if path.is_dir():
            raise bad_input(f"{path} is a folder: give the name of a file")
        if not path.parent.is_dir():
            raise bad_input(f"cannot write {path}: there is no folder {path.parent}; make it, or give another name")


def _write(diagnosis: Diagnosis, html: Path | None, json: str | None) -> None:
    try:
        if html is not None:
            diagnosis.to_html(html)
        if json not in (None, "-"):
            diagnosis.to_json(json)
    except OSError as error:
        raise bad_input(f"cannot write {error.filename}: {error.strerror or error}; give another name") from error


class _Waiting:
    """Says on standard error what is going on, where that takes long: a line each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._timer: threading.Timer | None = None

    def begin(self, what: str) -> None:
        """Something else is going on from now on."""
        self.end()
        self._timer = threading.Timer(WAIT, lambda: self._console.print(what, soft_wrap=True, markup=False))
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Nothing is going on any more."""
        if self._timer is not None:
            self._timer.cancel()


class _Turning(_Waiting):
    """The same in a terminal: one line with the time that it takes, which is gone in the end."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), console=console,
            transient=True,
        )  # fmt: skip

    def begin(self, what: str) -> None:
        """Something else is going on from now on."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._progress.add_task(what, total=None)
        self._progress.start()

    def end(self) -> None:
        """Nothing is going on any more."""
        self._progress.stop()


@contextmanager
def _waiting() -> Iterator[_Waiting]:
    console = Console(stderr=True, highlight=False)
    waiting = _Turning(console) if console.is_terminal and not console.is_dumb_terminal else _Waiting(console)
    try:
        yield waiting
    finally:
        waiting.end()
