"""The option `--fail-on`: which findings make a command exit with 1."""

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import typer

from sigmoidcore._language import _

if TYPE_CHECKING:
    from sigmoidcore.diagnosis.findings import Finding

SEVERITIES = {"error": ("error",), "warning": ("error", "warning"), "never": ()}


def fail_on_option(default: str) -> Any:
    """The option `--fail-on`, with the value that holds without it."""
    return typer.Option(
        "--fail-on",
        show_default=default,
        callback=_check_conditions,
        metavar="WHAT",
        help="Exit with 1 on: error, warning (includes errors), never, a rule (SC101) or group (SC1). Repeatable.",
    )


def codes() -> list[str]:
    """The codes of all rules, from the text of their table: `watch` must not import the rules, and with them PyTorch.

    Example:
        >>> codes()[:3]
        ['SC101', 'SC102', 'SC103']
    """
    table = files("sigmoidcore").joinpath("diagnosis", "rules", "table.py").read_text(encoding="utf-8")
    return re.findall(r'Rule\("(SC\d+)"', table)


def _check_conditions(values: list[str] | None) -> list[str] | None:
    for value in values or ():
        if value not in SEVERITIES and not (value and any(code.startswith(value) for code in codes())):
            groups = ", ".join(sorted({code[:3] for code in codes()}))
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


def fails(findings: "Iterable[Finding]", conditions: Iterable[str]) -> bool:
    """Whether a finding is one of those of `--fail-on`."""
    conditions = list(conditions)
    return any(
        finding.severity in SEVERITIES[what] if what in SEVERITIES else finding.rule.startswith(what)
        for finding in findings
        for what in conditions
    )
