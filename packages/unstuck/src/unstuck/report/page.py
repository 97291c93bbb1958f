"""A diagnosis as HTML: one page with its style, charts and script inside, and a short form for notebooks.

jinja2 makes the HTML and escapes everything that a model brings; it is a requirement of torch.
"""

import base64
import hashlib
import math
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from unstuck.files import write_file
from unstuck.judgement import Judgement
from unstuck.language import LANGUAGES, _, language
from unstuck.language.terminal import DEFAULT, printable
from unstuck.report.axes import numbered
from unstuck.report.charts import Box, Point, panels
from unstuck.report.layer_rows import layer_rows
from unstuck.report.layer_table import cell, findings_by_layer, most_telling, number_columns, positions
from unstuck.report.text import head, title, verdict
from unstuck.report.trials import HEIGHT, WIDTH, curves, trial_text, trials_lines
from unstuck.wording import short_number

FIRST = 100
"""Rows of a page of the table; without its script, the page shows the most telling ones."""
MOST = 10_000
"""Layers in the table at most, so that the page stays below 2 MB."""


def to_html(judgement: Judgement, path: str | Path) -> Path:
    """Write a diagnosis as one self-contained page; returns its path."""
    script, measurement = _asset("page.js"), judgement.measurement
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _rendered(
        "page.html",
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        script=script,
        style=_asset("page.css"),
        verdict=verdict(judgement),
        judgement=judgement,
        model=type(judgement.subject.model).__name__ if judgement.subject is not None else "",
        parameters=sum(math.prod(weight.shape) for weight in measurement.weights),
        panels=panels(measurement, judgement.findings, judgement.history),
        numbers=numbered(len(measurement.layers)) if measurement.layers else [],
        places={name: found[0] for name, found in positions(measurement).items()},
        table=_table(judgement),
    )
    write_file(Path(path), page.encode())
    return Path(path)


def to_notebook(judgement: Judgement) -> str:
    """HTML for a notebook, in its colours: the verdict, the findings and the layers, without a script."""
    rows = layer_rows(judgement.measurement, judgement.findings, DEFAULT) if judgement.measurement.layers else []
    return _rendered("notebook.html", judgement=judgement, head=head(judgement), rows=rows)


def _asset(name: str) -> str:
    return files("unstuck.report").joinpath("assets", name).read_text(encoding="utf-8")


def _rendered(template: str, **values: Any) -> str:
    import jinja2  # only here: it takes a while

    templates = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        finalize=_without_controls,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    templates.filters |= {"layer_name": _name, "short": short_number, "quoted": re.compile("`([^`]+)`").split}
    templates.globals |= {
        "_": _,
        "language": language(),
        "title": title,
        "trial_text": trial_text,
        "trials_lines": trials_lines,
    }
    templates.globals |= {"curves": curves, "trial_size": (WIDTH, HEIGHT)}
    templates.filters |= {"box_path": _box_path, "line_path": _line_path}
    return templates.get_template(template).render(**values)


def _without_controls(value: Any) -> Any:
    """Every text of a template passes here: control characters are escaped, but for line breaks."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return "\n".join(map(printable, value.split("\n"))) if is_text else value


def _name(name: str) -> str:
    return printable(name) or _("(the model)")


def _box_path(boxes: Iterable[Box]) -> str:
    return "".join(f"M{x:.5g} {y:.5g}h{width:.5g}v{height:.5g}h-{width:.5g}z" for x, y, width, height in boxes)


def _line_path(strokes: Iterable[Iterable[Point]]) -> str:
    return "".join("M" + "L".join(f"{x:.5g} {y:.5g}" for x, y in stroke) for stroke in strokes)


def _table(judgement: Judgement) -> dict[str, Any]:
    """The table: columns, rows for a page without its script, and the data for the script."""
    measurement, findings = judgement.measurement, judgement.findings
    found = findings_by_layer(measurement, findings)
    marks = [printable(finding.rule) for finding in findings]
    places = most_telling(measurement, findings, MOST)
    layers = [measurement.layers[place] for place in places]
    cells = {column: [cell(column, layer) for layer in layers] for column in number_columns(measurement)}
    cells = {column: texts for column, texts in cells.items() if any(texts)}
    shown = set(most_telling(measurement, findings, FIRST))
    rows = [
        (place, layers[i], [texts[i] for texts in cells.values()], " ".join(marks[n] for n in found.get(place, ())))
        for i, place in enumerate(places)
        if place in shown
    ]
    data: dict[str, Any] = {
        "layers": len(measurement.layers),
        "places": places if len(places) < len(measurement.layers) else None,
        "names": [_name(layer.name) for layer in layers],
        "kinds": [_name(layer.kind) for layer in layers],
        "shapes": [f"{' x '.join(map(str, layer.shape))} {printable(layer.dtype)}".strip() for layer in layers],
        "columns": [[column.key, column.head] for column in cells],
        "cells": [" ".join(texts) for texts in cells.values()],
        "marks": marks,
        "found": [[place, found[place]] for place in places if place in found],
        "page": FIRST,
    }
    if language() != LANGUAGES[0]:
        data["words"] = {text: _(text) for text in re.findall(r'\b_\("([^"]+)"', _asset("page.js"))}
    return {"columns": list(cells), "rows": rows, "data": data, "marked": bool(found)}
