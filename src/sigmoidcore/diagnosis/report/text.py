"""A diagnosis in words, for a terminal: the verdict, what was found and what to do, then the layers."""

from collections import Counter
from collections.abc import Sequence

from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.report.columns import folded, printable, shortened, wrapped
from sigmoidcore.diagnosis.report.listing import listing
from sigmoidcore.diagnosis.report.terminal import USUAL
from sigmoidcore.diagnosis.report.through_steps import through_steps
from sigmoidcore.diagnosis.report.wording import counted

FINDINGS = 10
"""So many findings are told; the others are counted."""
NAMES = 4
"""So many layers are named under a finding; the others are counted."""
NAME_WIDTH = 36
NOTES = 5
CALL_LINES = 16
"""A longer call is not printed but said to be in the finding."""

_INDENT = "  "
_REMEDY = "→ "


def told(diagnosis: Judgement, width: int = USUAL) -> str:
    """Lines of at most so many columns, however many layers and findings there are and whatever their names.

    Args:
        diagnosis: what was measured and found.
        width: of a line, 40 or more.

    Returns:
        Plain text without colours: the verdict; what was found, worst first, with its remedy and the call to copy;
        the layers, all or the worst; the gradient through the time steps of recurrent layers; what was not seen.
    """
    measurement = diagnosis.measurement
    findings = diagnosis.findings
    blocks = [
        _head(diagnosis, width),
        *(_finding(i, finding, width) for i, finding in enumerate(findings[:FINDINGS])),
        _more(findings[FINDINGS:], width),
        listing(measurement, findings, width) if measurement.layers else [],
        through_steps(measurement, width),
        _notes(measurement.notes, width),
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks if block)


def verdict(diagnosis: Judgement) -> str:
    """One line: what was found, and in how many layers."""
    count = len(diagnosis.measurement.layers)
    layers = counted(count, "layer") if count else "no layers"
    kinds = Counter(finding.severity for finding in diagnosis.findings)
    found = ", ".join(counted(kinds[severity], severity.value) for severity in Severity if kinds[severity])
    if not diagnosis.healthy:
        return f"{found} in {layers}"
    if count:
        return f"healthy: {layers}, {found or 'nothing found'}"
    return f"no layers were seen, {found or 'nothing found'}"


def facts(diagnosis: Judgement) -> str:
    """One line: what was measured on, the loss, the spread of the profile."""
    return ", ".join(_facts(diagnosis.measurement))


def _head(diagnosis: Judgement, width: int) -> list[str]:
    lines = [verdict(diagnosis), facts(diagnosis), *_training(diagnosis)]
    return [part for line in lines for part in wrapped(line, width)]


def _facts(measurement: Measurement) -> list[str]:
    facts = [counted(measurement.samples, "sample")]
    if measurement.ranks > 1:
        facts.append(f"{measurement.ranks:,} processes")
    if measurement.loss is not None:
        by = f" ({measurement.loss_function})" if measurement.loss_function else ""
        facts.append(f"loss {measurement.loss:.4g}{by}")
    profile = measurement.profile
    if len(profile.names) > 1:
        facts.append(f"gradient spread {profile.spread:.4g}")
    return facts


def _training(diagnosis: Judgement) -> list[str]:
    """Over which steps, if a Monitor saw a training."""
    step = diagnosis.measurement.step
    if len(diagnosis.history) < 2:
        return [] if step is None else [f"measured at step {step:,}"]
    steps = [m.step for m in diagnosis.history if m.step is not None]
    span = f" from step {min(steps):,} to {max(steps):,}" if steps else ""
    return [f"measured {len(diagnosis.history):,} times{span}; the numbers below are of the last"]


def _finding(index: int, finding: Finding, width: int) -> list[str]:
    lines = wrapped(f"{finding.rule} {finding.severity.value}: {finding.name}", width)
    width -= len(_INDENT)
    lines += [_INDENT + line for line in wrapped(finding.message, width)]
    if len(finding.layers) > 1:
        lines += [_INDENT + line for line in wrapped("in " + _few(finding.layers), width)]
    for i, line in enumerate(wrapped(finding.remedy, width - len(_REMEDY))):
        lines.append(_INDENT + (" " * len(_REMEDY) if i else _REMEDY) + line)
    if finding.call is not None:
        call = folded(finding.call, width - 2 * len(_INDENT))
        if len(call) > CALL_LINES:
            call = wrapped(f"# {len(call)} lines long: print(diagnosis.findings[{index}].call)", width - 4)
        lines += ["", *(3 * _INDENT + line for line in call)]
    return lines


def _more(findings: Sequence[Finding], width: int) -> list[str]:
    """How many findings of each rule were not told."""
    if not findings:
        return []
    rules = Counter(f"{finding.rule} {finding.name}" for finding in findings)
    each = ", ".join(f"{count:,} x {rule}" for rule, count in rules.most_common(NAMES))
    rest = f", {len(rules) - NAMES} more rules" if len(rules) > NAMES else ""
    text = f"and {counted(len(findings), 'more finding')}: {each}{rest}; all are in diagnosis.findings"
    return wrapped(text, width)


def _notes(notes: Sequence[str], width: int) -> list[str]:
    if not notes:
        return []
    lines = ["not seen:"]
    for note in notes[:NOTES]:
        first, *others = wrapped(note, width - 4) or [""]
        lines += [f"  - {first}", *(f"    {line}" for line in others)]
    if len(notes) > NOTES:
        first, *others = wrapped(f"and {len(notes) - NOTES:,} more in diagnosis.measurement.notes", width - 4)
        lines += [f"  - {first}", *(f"    {line}" for line in others)]
    return lines


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(shortened(printable(name), NAME_WIDTH) or "(the model)" for name in names[:NAMES])
    return shown if len(names) <= NAMES else f"{shown} and {len(names) - NAMES:,} more"
