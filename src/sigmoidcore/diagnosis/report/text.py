"""A diagnosis as text: the verdict, the findings with their remedies, then the layers."""

from collections import Counter
from collections.abc import Sequence

from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.report.layer_rows import layer_rows, time_step_rows
from sigmoidcore.diagnosis.report.terminal import DEFAULT, columns, printable, shortened, wrapped
from sigmoidcore.diagnosis.wording import counted

NAMES, NAME_WIDTH = 4, 36
"""Layers that are named under a finding, the others are counted; columns of a name."""
NOTES = 5
CALL = 1000
"""A call of more characters is not printed; the text says where it is."""


def to_text(judgement: Judgement, width: int = DEFAULT) -> str:
    """Plain text in lines of at most `width` columns, 40 or more, for any number of layers and any names.

    Only a statement of a call may be wider, so that it can be copied.
    """
    measurement, findings = judgement.measurement, judgement.findings
    blocks = [
        [part for line in head(judgement) for part in wrapped(line, width)],
        *(finding_lines(finding, width, i) for i, finding in enumerate(findings)),
        layer_rows(measurement, findings, width) if measurement.layers else [],
        time_step_rows(measurement, width),
        _notes(measurement.notes, width),
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks if block)


def verdict(judgement: Judgement) -> str:
    """The findings in one line, and the number of layers."""
    count = len(judgement.measurement.layers)
    severities = Counter(finding.severity for finding in judgement.findings)
    found = ", ".join(counted(severities[s], s.value) for s in Severity if severities[s]) or "nothing found"
    layers = counted(count, "layer") if count else "no layers"
    if not judgement.healthy:
        return f"{found} in {layers}"
    if not count:
        return f"no layers were seen, {found}"
    decisive = [str(gap) for gap in judgement.gaps if gap.decisive]
    if decisive:
        more = f" and {len(decisive) - 1} more" if decisive[1:] else ""
        return f"{found} in {layers}, but not judged: {decisive[0]}{more}"
    return f"healthy: {layers}, {found}"


def head(judgement: Judgement) -> list[str]:
    """The verdict, what was measured, the steps of a training, and what was not judged."""
    measurement, history = judgement.measurement, judgement.history
    facts = [counted(measurement.samples, "sample")]
    if measurement.ranks > 1:
        facts.append(f"{measurement.ranks:,} processes")
    if measurement.loss is not None:
        function = f" ({measurement.loss_function})" if measurement.loss_function else ""
        facts.append(f"loss {measurement.loss:.4g}{function}")
    if len(measurement.profile.names) > 1:
        facts.append(f"gradient spread {measurement.profile.spread:.4g}")
    lines = [verdict(judgement), ", ".join(facts)]
    if len(history) > 1:
        steps = [m.step for m in history if m.step is not None]
        span = f" from step {min(steps):,} to {max(steps):,}" if steps else ""
        lines.append(f"measured {len(history):,} times{span}; the numbers below are of the last")
    elif measurement.step is not None:
        lines.append(f"measured at step {measurement.step:,}")
    if measurement.layers and judgement.gaps:
        lines.append(f"not judged: {', '.join(map(str, judgement.gaps))}")
    return lines


def finding_lines(finding: Finding, width: int, index: int = 0) -> list[str]:
    """A finding with its remedy and its call; `index` is its place in the diagnosis."""
    lines = wrapped(f"{finding.rule} {finding.severity.value}: {finding.name}", width)
    lines += wrapped(finding.message, width, "  ")
    if len(finding.layers) > 1:
        names = [shortened(printable(name), NAME_WIDTH) or "(the model)" for name in finding.layers[:NAMES]]
        more = f" and {len(finding.layers) - NAMES:,} more" if len(finding.layers) > NAMES else ""
        lines += wrapped(f"in {', '.join(names)}{more}", width, "  ")
    lines += wrapped(finding.remedy, width, "  → ", "    ")
    if finding.call is not None:
        call = printable(finding.call)
        if len(call) > CALL:
            call = f"print(diagnosis.findings[{index}].call)  # {len(call):,} characters"
        lines += ["", *(f"      {line}" for line in (call.split("; ") if columns(call) > width - 6 else [call]))]
    return lines


def _notes(notes: Sequence[str], width: int) -> list[str]:
    more = [f"and {len(notes) - NOTES:,} more in diagnosis.measurement.notes"] if len(notes) > NOTES else []
    lines = [line for note in (*notes[:NOTES], *more) for line in wrapped(note, width, "  - ", "    ")]
    return ["not seen:", *lines] if notes else []
