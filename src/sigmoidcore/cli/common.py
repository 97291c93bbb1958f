"""The arguments that commands share, and the run that they name."""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from sigmoidcore._language import _
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.rules import RULES
from sigmoidcore.training.data import InputError
from sigmoidcore.training.use import TrainedRun, open_run

RUN = Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="Folder of a run.")]
SEVERITIES = {"error": (Severity.ERROR,), "warning": (Severity.ERROR, Severity.WARNING), "never": ()}
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


def fail_on_option(default: str) -> Any:
    """The option `--fail-on`, with the value that holds without it."""
    return typer.Option(
        "--fail-on",
        show_default=default,
        callback=_check_conditions,
        metavar="WHAT",
        help="Exit with 1 on: error, warning (includes errors), never, a rule (SC101) or group (SC1). Repeatable.",
    )


def _check_conditions(values: list[str] | None) -> list[str] | None:
    for value in values or ():
        if value not in SEVERITIES and not (value and any(rule.id.startswith(value) for rule in RULES)):
            groups = ", ".join(sorted({rule.id[:3] for rule in RULES}))
            raise typer.BadParameter(
                _(
                    "{value!r} is not error, warning, never, a rule such as SC101, or a group of rules ({groups}).",
                    value=value,
                    groups=groups,
                )
            )
    if values and "never" in values and len(values) > 1:
        raise typer.BadParameter(_("never excludes other values."))
    return values


def fails(findings: Iterable[Finding], conditions: Iterable[str]) -> bool:
    """Whether a finding is one of those of `--fail-on`."""
    conditions = list(conditions)
    return any(
        finding.severity in SEVERITIES[what] if what in SEVERITIES else finding.rule.startswith(what)
        for finding in findings
        for what in conditions
    )


def opened(folder: Path) -> TrainedRun:
    """The run that a command names."""
    if not folder.is_dir():
        what = _("is a file") if folder.exists() else _("does not exist")
        raise InputError(
            _("{folder} {what}: give the folder of a run; `sigmoid-core runs` lists them", folder=folder, what=what)
        )
    return open_run(folder)


def print_json(text: str) -> None:
    """Print JSON, with characters that the output cannot encode or that could control a terminal as escapes."""
    encoding = sys.stdout.encoding or "utf-8"

    def written(found: re.Match[str]) -> str:
        return (
            found[0] if found[0].isprintable() and found[0].encode(encoding, "ignore") else json.dumps(found[0])[1:-1]
        )

    print(re.sub(r"[^ -~\n]", written, text))
