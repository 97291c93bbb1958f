"""A diagnosis as one page: HTML that opens without network, with its style, its figures and its script inside."""

import base64
import hashlib
import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.report.columns import printable
from sigmoidcore.diagnosis.report.page.panel import Panel
from sigmoidcore.diagnosis.report.page.panels import panels
from sigmoidcore.diagnosis.report.page.rows import Table, table
from sigmoidcore.diagnosis.report.wording import clipped, counted, short, shown

LARGEST = 1_900_000
"""Bytes of the page: what figures and findings leave of it is the table's, and layers that do not fit are left out."""
FINDINGS = 50
"""Findings that the page tells at most, while their HTML has fewer bytes than `TOLD`; the others are counted."""
TOLD = 400_000
AT_ONCE = 8
"""Layers of a finding that are seen at once; as many as `NAMED` unfold."""
NAMED = 60
LONGEST = 2000
"""Characters of a message or a remedy, of a longer one the two ends; a longer call is not told but said to be there."""
NOTES = 40

_SHAPES = {
    Severity.ERROR: "\N{BLACK CIRCLE}",
    Severity.WARNING: "\N{BLACK UP-POINTING TRIANGLE}",
    Severity.NOTE: "\N{BLACK SQUARE}",
}


def to_html(diagnosis: Judgement, path: str | Path) -> Path:
    """Write a diagnosis as one self-contained page under 2 MB, however many layers there are.

    Args:
        diagnosis: what was measured and found.
        path: of the file, which is replaced; its folder must exist.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
        >>> layers = tuple(Layer(f"{i}", f"{i}", "Linear", "weights", gradient=0.5) for i in range(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = to_html(Judgement(Measurement(layers, (), samples=8), ()), f"{folder}/page.html")
        ...     "healthy" in page.read_text(encoding="utf-8")
        True
    """
    path = Path(path)
    # A name may hold a lone surrogate, which no encoding has a place for.
    path.write_text(_page(diagnosis), encoding="utf-8", errors="xmlcharrefreplace", newline="\n")
    return path


def _page(diagnosis: Judgement) -> str:
    model = type(diagnosis.subject.model).__name__ if diagnosis.subject is not None else ""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = panels(diagnosis)
    parts = {
        "title": html.escape(f"{_verdict(diagnosis)}{f' · {shown(model)}' if model else ''}"),
        "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "style": _asset("page.css"),
        "script": script,
        "state": "healthy" if diagnosis.healthy else "broken",
        "model": f"of <b>{html.escape(shown(model))}</b>" if model else "",
        "verdict": html.escape(_verdict(diagnosis)),
        "facts": "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(diagnosis)),
        "contents": _contents(drawn),
        "findings": _findings(diagnosis),
        "panels": "".join(map(_section, drawn)),
        "notes": _notes(diagnosis.measurement),
    }
    room = LARGEST - sum(len(part.encode(errors="xmlcharrefreplace")) for part in parts.values())
    rows = table(diagnosis, room)
    first, count = rows.first()
    return Template(_asset("page.html")).substitute(
        parts, columns=rows.head(), rows=first, table=_said(rows, count), data=rows.data()
    )


def _asset(name: str) -> str:
    return files("sigmoidcore.diagnosis.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def _verdict(diagnosis: Judgement) -> str:
    layers = counted(len(diagnosis.measurement.layers), "layer")
    kinds = Counter(finding.severity for finding in diagnosis.findings)
    found = ", ".join(counted(kinds[s], s.value) for s in Severity if kinds[s])
    if diagnosis.healthy:
        return (
            f"healthy: {layers}, {found or 'nothing found'}" if diagnosis.measurement.layers else "no layers were seen"
        )
    return f"{found} in {layers}"


def _facts(diagnosis: Judgement) -> list[tuple[str, str]]:
    """Names and values, as HTML."""
    measurement = diagnosis.measurement
    facts = [("samples", f"{measurement.samples:,}")]
    numbers = sum(_product(weight.shape) for weight in measurement.weights)
    if numbers:
        facts.append(("parameters", f"{numbers:,}"))
    if measurement.loss is not None:
        by = f" <small>{html.escape(shown(measurement.loss_function))}</small>" if measurement.loss_function else ""
        facts.append(("loss", short(measurement.loss) + by))
    profile = measurement.profile
    if len(profile.names) > 1:
        facts.append(("gradient spread", short(profile.spread)))
    if measurement.step is not None:
        facts.append(("step", f"{measurement.step:,}"))
    if len(diagnosis.history) > 1:
        facts.append(("measurements", f"{len(diagnosis.history):,}"))
    if measurement.ranks > 1:
        facts.append(("processes", f"{measurement.ranks:,}"))
    return facts


def _product(shape: Sequence[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _contents(drawn: Sequence[Panel]) -> str:
    links = [("findings", "Findings"), *((panel.ident, panel.name) for panel in drawn), ("layers", "Layers")]
    return "".join(f'<li><a href="#{ident}">{title}</a></li>' for ident, title in links)


def _section(panel: Panel) -> str:
    title = f'<h2 id="{panel.ident}-title">{panel.title}</h2>'
    legend = f'<figcaption class="legend">{panel.legend}</figcaption>' if panel.legend else ""
    return (
        f'<section id="{panel.ident}" aria-labelledby="{panel.ident}-title">{title}<p class="reading">{panel.text}</p>'
        f"<figure>{panel.body}{legend}</figure></section>"
    )


def _findings(diagnosis: Judgement) -> str:
    findings = diagnosis.findings
    if not findings:
        return '<p class="nothing">Nothing was found in what was measured.</p>'
    places = {layer.name: place for place, layer in reversed(list(enumerate(diagnosis.measurement.layers)))}
    users = {
        weight: place
        for place, layer in reversed(list(enumerate(diagnosis.measurement.layers)))
        for weight in layer.weights
    }
    led, told, size = users | places, [], 0
    for number, finding in enumerate(findings[:FINDINGS]):
        if size < TOLD:
            told.append(_finding(number, finding, led))
            size += len(told[-1].encode(errors="xmlcharrefreplace"))
    rest = len(findings) - len(told)
    more = f'<p class="nothing">{counted(rest, "more finding")}, less severe, not shown here.</p>' if rest > 0 else ""
    return f'<ol class="findings">{"".join(told)}</ol>{more}'


def _finding(number: int, finding: Finding, places: dict[str, int]) -> str:
    severity = finding.severity
    return (
        f'<li class="finding {severity}" id="finding-{number + 1}"><h3><span class="severity">'
        f'<span class="shape" aria-hidden="true">{_SHAPES[severity]}</span>{severity}</span> {_escaped(finding.name)}'
        f' <span class="rule">{_escaped(finding.rule)}</span></h3><p>{_prose(finding.message, places)}</p>'
        f'<p class="remedy"><b>What to do</b> {_prose(finding.remedy, places)}</p>'
        f"{_call(number, finding.call)}{_where(finding.layers, places)}</li>"
    )


def _call(number: int, call: str | None) -> str:
    if call is None:
        return ""
    if len(call) > LONGEST:  # half a call is none
        call = f"print(diagnosis.findings[{number}].call)  # it has {len(call):,} characters"
    code = f'<pre tabindex="0" aria-label="The call that mends it"><code>{_escaped(call)}</code></pre>'
    return f'<div class="call">{code}<button type="button" class="copy" hidden>Copy</button></div>'


def _where(layers: Sequence[str], places: dict[str, int]) -> str:
    """The layers of a finding, the worst at once and more behind a click."""
    if not layers:
        return ""
    names = [_name(name, places.get(name)) for name in layers[:NAMED]]
    rest = names[AT_ONCE:]
    if len(layers) > NAMED:
        rest.append(f"<li>and {len(layers) - NAMED:,} more, which the table marks</li>")
    summary = f"<summary>{len(layers) - AT_ONCE:,} more</summary>"
    unfold = f'<details>{summary}<ul class="names">{"".join(rest)}</ul></details>' if rest else ""
    return f'<div class="where"><ul class="names">{"".join(names[:AT_ONCE])}</ul>{unfold}</div>'


def _name(name: str, place: int | None) -> str:
    text = f'<bdi class="name">{html.escape(shown(name))}</bdi>'
    if place is None:
        return f"<li>{text}</li>"
    return f'<li><a class="layer" href="#layer-{place + 1}" data-layer="{place}">{text}</a></li>'


def _escaped(text: str) -> str:
    """A text of several lines at most, as HTML."""
    return html.escape("\n".join(printable(line) for line in clipped(text, LONGEST).split("\n")))


def _prose(text: str, names: Iterable[str]) -> str:
    """A text in which `names` are code, those with a backtick in them, too."""
    odd = sorted({name for name in names if "`" in name}, key=len, reverse=True)
    quoted = "|".join([*map(re.escape, odd), "[^`]+"])
    parts = re.split(f"`({quoted})`", clipped(text, LONGEST))
    return "".join(
        f"<code>{html.escape(printable(part))}</code>" if i % 2 else _escaped(part) for i, part in enumerate(parts)
    )


def _said(rows: Table, first: int) -> str:
    """What the table holds."""
    layers, kept = len(rows.measurement.layers), len(rows.places)
    parts = []
    if kept < layers:
        parts.append(f"Thinned: {kept:,} of {layers:,} layers are in this table, those that findings name first.")
    if first < kept:
        parts.append(f'<span class="unscripted">Without its script, the page shows {first} of them.</span>')
    return " ".join(parts)


def _notes(measurement: Measurement) -> str:
    notes = [f"<li>{_prose(note, ())}</li>" for note in measurement.notes[:NOTES]]
    if len(measurement.notes) > NOTES:
        notes.append(f"<li>and {len(measurement.notes) - NOTES:,} more</li>")
    if not notes:
        return ""
    title = '<h2 id="notes-title">What was not seen</h2>'
    return f'<section id="notes" aria-labelledby="notes-title">{title}<ul>{"".join(notes)}</ul></section>'
