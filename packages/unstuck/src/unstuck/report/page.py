"""A diagnosis as HTML: one page with its style, charts and script inside, and a short form for notebooks.

jinja2 makes the HTML and escapes everything that a model brings; it is a requirement of torch.
"""

import base64
import hashlib
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from unstuck.files import write_file
from unstuck.findings import Judgement
from unstuck.language import LANGUAGES, _, language
from unstuck.language.terminal import DEFAULT, printable
from unstuck.report.charts import charts, numbered
from unstuck.report.layers import findings_by_layer, layer_rows, most_telling, number_columns, positions
from unstuck.report.text import head, title, verdict
from unstuck.report.trials import HEIGHT, WIDTH, curves, trial_text, trials_lines
from unstuck.wording import counted, short_number

FIRST = 100
"""Rows of a page of the table; without its script, the page shows the most telling ones."""


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
        charts=charts(measurement, judgement.findings, judgement.history),
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
        loader=jinja2.FunctionLoader(_asset), autoescape=True, finalize=_without_controls,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    templates.filters |= {"layer_name": _name, "short": short_number, "quoted": re.compile("`([^`]+)`").split}
    functions = {"title": title, "counted": counted, "trial_text": trial_text, "trials_lines": trials_lines}
    templates.globals |= {"_": _, "language": language(), "curves": curves, "trial_size": (WIDTH, HEIGHT), **functions}
    return templates.get_template(template).render(**values)


def _without_controls(value: Any) -> Any:
    """Every text of a template passes here: control characters are escaped, but for line breaks."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return "\n".join(map(printable, value.split("\n"))) if is_text else value


def _name(name: str) -> str:
    return printable(name) or _("(the model)")


def _table(judgement: Judgement) -> dict[str, Any]:
    """The table: its columns, and a row for each layer, of which the page shows some without its script."""
    measurement, findings = judgement.measurement, judgement.findings
    layers, found = measurement.layers, findings_by_layer(measurement, findings)
    columns = [column for column in number_columns(measurement) if any(map(column.cell, layers))]
    rows = [
        [
            _name(layer.name),
            _name(layer.kind),
            f"{' x '.join(map(str, layer.shape))} {printable(layer.dtype)}".strip(),
            " ".join(column.cell(layer) for column in columns),
            " ".join(printable(findings[number].rule) for number in found.get(place, ())),
        ]
        for place, layer in enumerate(layers)
    ]
    data = {"columns": [[column.key, column.head] for column in columns], "rows": rows, "page": FIRST}
    if language() != LANGUAGES[0]:
        data["words"] = {text: _(text) for text in re.findall(r'\b_\("([^"]+)"', _asset("page.js"))}
    return {"columns": columns, "rows": rows, "shown": most_telling(measurement, findings, FIRST), "data": data}
