"""`sigmoid-core diagnose`: measures a network on one batch, reports what is wrong, and exits with a code for CI."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from torch import nn
from torch.nn.parameter import UninitializedParameter

import sigmoidcore as sc
from sigmoidcore.cli.common import errors_in_one_line
from sigmoidcore.cli.subject import Subject, subject_of
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.report.terminal import writable
from sigmoidcore.diagnosis.rules import RULES
from sigmoidcore.training.display import count
from sigmoidcore.training.session import bad_input, interrupted
from sigmoidcore.training.use.output import check_output
from sigmoidcore.training.user_code import exception_text, raised_here

NEVER = "never"
SEVERITIES = {"error": (Severity.ERROR,), "warning": (Severity.ERROR, Severity.WARNING)}


def _check_conditions(values: list[str] | None) -> list[str] | None:
    for value in values or ():
        known = value in (*SEVERITIES, NEVER) or (value and any(rule.id.startswith(value) for rule in RULES))
        if not known:
            groups = ", ".join(sorted({rule.id[:3] for rule in RULES}))
            raise typer.BadParameter(
                f"{value!r} is not error, warning, never, a rule such as SC101, or a group of rules ({groups})."
            )
    if values and NEVER in values and len(values) > 1:
        raise typer.BadParameter("never excludes other values.")
    return values


TARGET = typer.Argument(
    metavar="TARGET",
    show_default=False,
    help="Your function as package.module:function, imported from this folder and executed; it returns (model, inputs, "
    "targets, loss_fn) or (model, inputs). Or the folder of a run of `sigmoid-core train`.",
)
JSON = typer.Option("--json", metavar="FILE", help="Write the diagnosis as JSON; - is standard output.")
HTML = typer.Option("--html", metavar="FILE", help="Write one page that needs no network connection.")
TRAINING = typer.Option("--training", help="Run the model in training mode, with dropout; the model is not changed.")
FAIL_ON = typer.Option(
    "--fail-on",
    show_default="error",
    callback=_check_conditions,
    metavar="WHAT",
    help="Exit with 1 on: error, warning (includes errors), never, a rule (SC101) or group (SC1). Repeatable.",
)


def diagnose(
    target: Annotated[str, TARGET],
    json: Annotated[str | None, JSON] = None,
    html: Annotated[Path | None, HTML] = None,
    training: Annotated[bool, TRAINING] = False,
    fail_on: Annotated[list[str] | None, FAIL_ON] = None,
) -> int:
    """Find where a network loses its gradient, on one batch; with an exit code for CI."""
    if str(html) == "-":
        raise bad_input("--html - would mix the page with the report: give the name of a file, such as report.html")
    files = [Path(file) for file in (html, json) if file is not None and str(file) != "-"]
    with errors_in_one_line():
        for file in files:
            check_output(file, overwrite=True)
    try:
        with Console(stderr=True, highlight=False).status(f"getting {writable(target)}") as status:
            subject = subject_of(target)
            status.update(f"measuring {_size(subject.model)}")
            diagnosis = _diagnosis_of(subject, training)
            text = diagnosis.to_json() if json == "-" else str(diagnosis)
            if html is not None:
                diagnosis.to_html(html)
            if json not in (None, "-"):
                diagnosis.to_json(json)
    except KeyboardInterrupt as error:
        raise interrupted("interrupted") from error
    print(writable(text))
    if json != "-":
        for file in files:
            print(writable(f"written: {file}"))
    return int(any(_fails(finding, fail_on or ["error"]) for finding in diagnosis.findings))


def _fails(finding: Finding, conditions: Sequence[str]) -> bool:
    """Whether a condition includes this finding; a named rule counts with every severity."""
    return any(
        finding.severity in SEVERITIES[condition] if condition in SEVERITIES else finding.rule.startswith(condition)
        for condition in conditions
    )


def _diagnosis_of(subject: Subject, training: bool) -> Diagnosis:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # for what the model prints
            diagnosis = sc.diagnose(subject.model, subject.inputs, subject.targets, subject.loss_fn, training=training)
    except Exception as error:
        ours = isinstance(error, ValueError | TypeError) and raised_here(error)
        reasons = [
            str(error) if ours else f"measuring raised {exception_text(error)}",
            *getattr(error, "__notes__", ()),
        ]
        reason = "; ".join(reasons).replace("training=True runs", "--training runs")
        raise bad_input(f"{subject.name}: {reason}") from error
    if not diagnosis.measurement.layers and not diagnosis.findings:
        why = diagnosis.measurement.notes or ("it calls nothing that has weights or is an activation",)
        raise bad_input(f"{subject.name}: no layers of the model were seen: {'; '.join(why)}")
    return diagnosis


def _size(model: nn.Module) -> str:
    modules = sum(1 for module in model.modules() if not list(module.children()))
    parameters = sum(p.numel() for p in model.parameters() if not isinstance(p, UninitializedParameter))
    return f"{count(modules, 'module')}, {count(parameters, 'parameter')}"
