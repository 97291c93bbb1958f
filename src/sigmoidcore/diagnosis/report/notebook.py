"""A diagnosis in a notebook: the verdict, what was found and what to do, and the layers; no script, a few kB."""

from collections.abc import Iterable
from html import escape

from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.report.columns import printable
from sigmoidcore.diagnosis.report.listing import listing
from sigmoidcore.diagnosis.report.terminal import USUAL
from sigmoidcore.diagnosis.report.text import CALL_LINES, FINDINGS, NOTES, facts, verdict
from sigmoidcore.diagnosis.report.wording import counted

LONGEST = 1000
"""Characters of a message or remedy that are shown."""


def to_notebook(diagnosis: Judgement) -> str:
    """HTML in which everything that was measured is text, with the colours of the notebook."""
    measurement, findings = diagnosis.measurement, diagnosis.findings
    parts = [f"<p><b>{_text(verdict(diagnosis))}</b><br>{_text(facts(diagnosis))}</p>"]
    parts += map(_finding, findings[:FINDINGS])
    if len(findings) > FINDINGS:
        parts.append(f"<p>and {counted(len(findings) - FINDINGS, 'more finding')}: see <code>.findings</code></p>")
    if measurement.layers:
        parts.append(_block(listing(measurement, findings, USUAL)))
    if measurement.notes:
        notes = "".join(f"<li>{_text(note)}</li>" for note in measurement.notes[:NOTES])
        parts.append(f"<p>not seen:</p><ul>{notes}</ul>")
    return f"<div>{''.join(parts)}</div>"


def _finding(finding: Finding) -> str:
    head = f"<b>{_text(f'{finding.rule} {finding.severity.value}: {finding.name}')}</b>"
    told = f"<p>{head}<br>{_text(finding.message)}<br>&rarr; {_text(finding.remedy)}</p>"
    lines = finding.call.splitlines() if finding.call is not None else []
    return told + (_block(map(printable, lines)) if 0 < len(lines) <= CALL_LINES else "")


def _block(lines: Iterable[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _text(text: str) -> str:
    text = printable(" ".join(text.split()))
    return escape(text if len(text) <= LONGEST else text[:LONGEST] + "…")
