"""A diagnosis as HTML: one page with its style, figures and script inside, and a short form for notebooks.

jinja2 makes the HTML and escapes everything that a model brings; it is a requirement of torch.
"""

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from sigmoidcore._files import write_file
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Layer
from sigmoidcore.diagnosis.report.charts import panels
from sigmoidcore.diagnosis.report.depth import spread_evenly
from sigmoidcore.diagnosis.report.formatting import percent, short
from sigmoidcore.diagnosis.report.layer_rows import layer_rows
from sigmoidcore.diagnosis.report.table import Column, named_layers, number_columns
from sigmoidcore.diagnosis.report.terminal import DEFAULT, printable
from sigmoidcore.diagnosis.report.text import head, verdict

FIRST = 100
"""Rows of a page of the table; without its script, the page shows the most telling ones."""
MOST = 10_000
"""Layers in the table at most, so that the page stays below 2 MB."""


def to_html(judgement: Judgement, path: str | Path) -> Path:
    """Write a diagnosis as one self-contained page; returns its path.

    Args:
        judgement: the diagnosis.
        path: of the file, which is replaced; its folder must exist.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
        >>> layers = tuple(Layer(f"{i}", f"{i}", "Linear", "weights", gradient=0.5) for i in range(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = to_html(Judgement(Measurement(layers, (), samples=8), ()), f"{folder}/page.html")
        ...     "healthy" in page.read_text(encoding="utf-8")
        True
    """
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    measurement = judgement.measurement
    every = list(enumerate(measurement.layers))[::-1]
    places = {weight: place for place, layer in every for weight in layer.weights}
    places |= {layer.name: place for place, layer in every}
    page = _rendered(
        "page.html",
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        script=script,
        style=_asset("page.css"),
        verdict=verdict(judgement),
        judgement=judgement,
        model=type(judgement.subject.model).__name__ if judgement.subject is not None else "",
        parameters=sum(math.prod(weight.shape) for weight in measurement.weights),
        panels=panels(judgement),
        places=places,
        table=_table(judgement),
    )
    write_file(Path(path), page.encode())
    return Path(path)


def to_notebook(judgement: Judgement) -> str:
    """HTML for a notebook, in its colours: the verdict, the findings and the layers, without a script."""
    rows = layer_rows(judgement.measurement, judgement.findings, DEFAULT) if judgement.measurement.layers else []
    return _rendered("notebook.html", judgement=judgement, head=head(judgement), rows=rows)


def _asset(name: str) -> str:
    return files("sigmoidcore.diagnosis.report").joinpath("assets", name).read_text(encoding="utf-8")


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
    templates.filters |= {"layer_name": _name, "short": short, "quoted": re.compile("`([^`]+)`").split}
    return templates.get_template(template).render(**values)


def _without_controls(value: Any) -> Any:
    """Every text of a template passes here: control characters are escaped, but for line breaks."""
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value


def _name(name: str) -> str:
    return printable(name) or "(the model)"


def _table(judgement: Judgement) -> dict[str, Any]:
    """The table: columns, rows for a page without its script, and the data for the script."""
    measurement = judgement.measurement
    found: dict[int, list[int]] = {}
    for number, named in enumerate(named_layers(measurement, judgement.findings)):
        for place in named:
            found.setdefault(place, []).append(number)
    places = _most_telling(found, range(len(measurement.layers)), MOST)
    layers = [measurement.layers[place] for place in places]
    cells = {column: [_cell(column, layer) for layer in layers] for column in number_columns(measurement)}
    cells = {column: texts for column, texts in cells.items() if any(texts)}
    marks = [printable(finding.rule) for finding in judgement.findings]
    row = {place: number for number, place in enumerate(places)}
    rows = [
        (place, measurement.layers[place], [texts[row[place]] for texts in cells.values()],
         " ".join(marks[number] for number in found.get(place, ())))
        for place in _most_telling(found, places, FIRST)
    ]  # fmt: skip
    data = {
        "layers": len(measurement.layers),
        "places": list(places) if len(places) < len(measurement.layers) else None,
        "names": [_name(layer.name) for layer in layers],
        "kinds": [_name(layer.kind) for layer in layers],
        "shapes": [f"{' x '.join(map(str, layer.shape))} {printable(layer.dtype)}".strip() for layer in layers],
        "columns": [[column.key, column.head] for column in cells],
        "cells": [" ".join(texts) for texts in cells.values()],
        "marks": marks,
        "found": [[place, found[place]] for place in places if place in found],
        "page": FIRST,
    }
    return {"columns": list(cells), "rows": rows, "data": data, "marked": bool(found)}


def _most_telling(found: Mapping[int, Sequence[int]], places: Sequence[int], most: int) -> Sequence[int]:
    """All places if they are few; else those of the worst findings, at most half, and evenly spaced others."""
    if len(places) <= most:
        return places
    shown = set(places)
    named = sorted((place for place in found if place in shown), key=lambda place: min(found[place]))[: most // 2]
    return sorted({*named, *(places[i] for i in spread_evenly(len(places), most - len(named)))})


def _cell(column: Column, layer: Layer) -> str:
    value = column.value(layer)
    if column.key == "gradient" and value is None and layer.role == "weights":
        return "none"
    return percent(value) if column.head.endswith("%") else short(value)
