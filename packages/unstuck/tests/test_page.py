"""The page: its content, its safety and its size. tests/integrations/test_page_browser.py tests it in a browser."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from torch import nn
from unstuck_support import diagnoses

import unstuck
from unstuck.diagnosis import Diagnosis
from unstuck.findings import Severity
from unstuck.measure.measurement import Measurement

LIMIT = 2_000_000
EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "\"onmouseover='alert(1)' x=\"",
    "<!--",
    "]]>",
    "a&lt;b&amp;",
    "\u202e\u0000\n\t\x1b[31m",
    "\ud800",
    "$script ${data} {0} %s",
    "名前\U0001f600",
]


class Tree(HTMLParser):
    """Elements with their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in ("meta", "link", "input"):
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag=None, **wanted):
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in wanted.items()}
        return [
            e
            for e in self.elements
            if tag in (None, e["tag"])
            and all(value in (e.get(name) or "").split() if name == "class" else e.get(name) == value
                    for name, value in wanted.items())
        ]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(diagnosis):
        path = diagnosis.to_html(tmp_path / "page.html")
        return path.read_text(encoding="utf-8")

    return write


def parsed(text):
    tree = Tree(text)
    return tree, json.loads(tree.all("script", id="data")[0]["text"])


def test_the_path_is_returned_and_the_file_replaced(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old" * 100_000)
    assert diagnoses.broken().to_html(str(path)) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "old" * 10 not in path.read_text(encoding="utf-8")


def test_the_page_refers_to_nothing_outside(write):
    text = write(replace(diagnoses.broken(), history=diagnoses.trained().history))
    for element in Tree(text).elements:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            assert (element.get(name) or "#").startswith(("#", "data:,")), element
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttpRequest|sendBeacon|import\(", text)


def test_the_policy_allows_the_script_of_the_page_and_no_loading(write):
    tree = Tree(write(diagnoses.broken()))
    (policy,) = tree.all("meta", http_equiv="Content-Security-Policy")
    (script,) = [e for e in tree.all("script") if "type" not in e]
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert policy["content"] == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


@pytest.mark.parametrize("name", EVIL)
def test_names_never_become_markup_or_code(write, name):
    healthy = Tree(write(diagnoses.broken(3)))
    diagnosis = diagnoses.broken(3, name=f"{{}}.{name}")
    of_model = [layer.name for layer in diagnosis.measurement.layers]
    findings = [
        replace(f, message=name, remedy=name, call=name, name=name, layers=(*of_model, name))
        for f in diagnosis.findings
    ]
    measured = replace(diagnosis.measurement, notes=(name,), loss_function=name)
    measured = replace(measured, layers=tuple(replace(x, kind=name, dtype=name) for x in measured.layers))
    tree, data = parsed(write(replace(diagnosis, findings=tuple(findings), measurement=measured)))
    assert {e["tag"] for e in tree.elements} <= {e["tag"] for e in healthy.elements} | {"figcaption"}
    assert len(tree.all("script")) == 2
    assert not [e for e in tree.elements if any(attribute.startswith("on") for attribute in e)]
    assert len(data["rows"]) == 6


def test_every_finding_has_its_severity_message_remedy_and_call(write):
    diagnosis = diagnoses.broken()
    tree = Tree(write(diagnosis))
    told = tree.all("li", class_="finding")
    assert [t["class"].split()[1] for t in told] == ["error", "warning", "note"]
    for text, finding in zip(told, diagnosis.findings, strict=True):
        for part in (finding.rule, finding.severity.value, finding.name, finding.message, finding.remedy):
            assert part in text["text"]
    assert [e["text"] for e in tree.all("code")] == [f.call for f in diagnosis.findings if f.call]


def test_layers_of_a_finding_link_to_their_rows_without_script(write):
    tree = Tree(write(diagnoses.broken(10)))
    links = tree.all("a", class_="layer")
    rows = {row["id"] for row in tree.all("tr") if "id" in row}
    assert len(links) > 5
    assert {link["href"][1:] for link in links} <= rows


def test_a_weight_links_to_its_layer_and_an_unknown_name_to_nothing(write):
    tree = Tree(write(diagnoses.broken(10)))
    note = tree.all("li", class_="finding")[2]
    assert "nowhere.weight" in note["text"]
    assert [a["href"] for a in tree.all("a", class_="layer") if a["text"] == "layers.0.linear.weight"] == ["#layer-1"]
    assert not [a for a in tree.all("a") if a["text"] == "nowhere.weight"]


def test_a_finding_with_thousands_of_layers_shows_some_and_counts_the_rest(write):
    diagnosis = diagnoses.broken(2000, decay=1.01)
    names = tuple(layer.name for layer in diagnosis.measurement.layers)
    tree = Tree(write(replace(diagnosis, findings=(diagnoses.finding(*names),))))
    assert len(tree.all("a", class_="layer")) == 60
    assert tree.all("summary")[0]["text"] == f"{4000 - 8:,} more"
    assert f"and {4000 - 60:,} more, which the table marks" in tree.all("details")[0]["text"]


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ((), "healthy: 4 layers, nothing found"),
        ((Severity.NOTE,), "healthy: 4 layers, 1 note"),
        ((Severity.ERROR, Severity.ERROR, Severity.NOTE), "2 errors, 1 note in 4 layers"),
    ],
)
def test_the_verdict_is_the_heading_and_the_title(write, findings, said):
    diagnosis = replace(diagnoses.broken(2), findings=tuple(diagnoses.finding("a", severity=s) for s in findings))
    tree = Tree(write(diagnosis))
    assert tree.all("h1")[0]["text"] == said
    assert tree.all("title")[0]["text"] == f"{said} · Sequential"
    assert tree.all("header")[0]["class"] == ("healthy" if diagnosis.healthy else "broken")


def test_an_empty_measurement_gives_a_page(write):
    tree = Tree(write(Diagnosis(Measurement((), (), samples=0, notes=("no layers ran",)), ())))
    assert tree.all("h1")[0]["text"] == "no layers were seen, nothing found"
    assert "no layers ran" in tree.all("section", id="notes")[0]["text"]
    assert not tree.all("svg")


def test_only_measured_quantities_have_a_figure(write):
    def panels(diagnosis):
        return [s["id"] for s in Tree(write(diagnosis)).all("section")]

    plain = replace(diagnoses.broken(), measurement=replace(diagnoses.measurement(), weights=()))
    assert panels(plain) == ["findings", "profile", "slopes", "layers"]
    whole = replace(diagnoses.broken(), history=diagnoses.trained().history)
    assert panels(whole) == [
        "findings", "profile", "history", "slopes", "updates", "layers", "notes",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf, 1e-320, 1e300])
def test_any_size_of_a_gradient_gives_a_page(write, size):
    diagnosis = diagnoses.with_layer(diagnoses.trained(3), 0, gradient=size)
    history = (*diagnosis.history, diagnosis.measurement)
    assert Tree(write(replace(diagnosis, history=history))).all(id="chart-profile")


def test_every_figure_has_a_summary_in_words(write):
    diagnosis = diagnoses.with_layer(diagnoses.broken(4), 0, gradient=0.0)
    diagnosis = diagnoses.with_layer(diagnosis, 2, gradient=math.nan)
    tree = Tree(write(diagnosis))
    figures = tree.all(role="img")
    assert len(figures) == 3
    assert all(len(figure["aria-label"]) > 20 for figure in figures)
    assert re.fullmatch(
        r"Gradient profile from \S+ \(layer 5, layers.2.linear\) to \S+ \(layer 7, layers.3.linear\); "
        r"nan: not a number in 1 layer; 0: vanished to 0 in 1 layer",
        figures[0]["aria-label"],
    )


def test_gradients_without_a_place_on_a_log_axis_are_counted_in_bands(write):
    values = {0: math.nan, 2: math.inf, 4: 0.0, 6: None}
    diagnosis = diagnoses.broken()
    for place, value in values.items():
        diagnosis = diagnoses.with_layer(diagnosis, place, gradient=value)
    tree = Tree(write(diagnosis))
    chart = tree.all(id="chart-profile")[0]
    for band in ("nan", "inf", "0", "none"):
        marks = tree.all("path", class_=f"mark-{band}")
        assert len(marks) == 2, band  # in the figure and in the legend
        assert band in chart["text"]
    legend = tree.all("figcaption")[0]["text"]
    assert "0: vanished to 0 in 1 layer" in legend
    assert "none: no gradient came back in 1 layer" in legend


def test_a_page_of_many_layers_is_under_two_megabytes_with_every_layer_in_its_table(write):
    layers = 10_000
    history = tuple(diagnoses.measurement(layers // 2, 1 + 0.0001 * k, seed=k, step=k) for k in range(2))
    text = write(replace(diagnoses.broken(layers // 2, decay=1.001), history=history))
    assert len(text.encode()) < LIMIT
    _, data = parsed(text)
    assert len(data["rows"]) == layers
    assert "Thinned: 480 of 5,000 layers are drawn, evenly." in text


def test_many_steps_are_thinned_with_a_note(write):
    text = write(diagnoses.trained(3, steps=200))
    assert "Thinned: 64 of 200 measurements, evenly." in text


def test_the_table_is_html_with_the_numbers_of_the_layers(write):
    diagnosis = diagnoses.with_layer(diagnoses.broken(2), 0, gradient=1.234e-9, nonfinite=3)
    tree, data = parsed(write(diagnosis))
    heads = [h["text"] for h in tree.all("th") if h.get("scope") == "col"]
    assert heads == [
        "#", "layer", "kind", "gradient", "gain", "RMS", "not finite", "satur. %", "slope", "spread", "update", "found",
    ]  # fmt: skip
    row = tree.all("tr", id="layer-1")[0]
    assert "layers.0.linear" in row["text"]
    assert "1.23e-9" in row["text"]
    assert data["rows"][0][3].split(" ")[0] == "1.23e-9"
    assert "US101" in row["text"]


def test_a_long_table_without_script_shows_the_layers_of_findings_and_some_others(write):
    diagnosis = diagnoses.broken(1000, decay=1.01)
    diagnosis = replace(diagnosis, findings=(diagnoses.finding("layers.777.linear", "layers.3.act"),))
    tree = Tree(write(diagnosis))
    rows = [row["id"] for row in tree.all("tr") if "id" in row]
    assert 90 <= len(rows) <= 102
    assert {"layer-1", "layer-8", "layer-1555", "layer-2000"} <= set(rows)


def test_the_page_of_a_real_network_names_all_its_layers(write):
    model = nn.Sequential(*[m for _ in range(30) for m in (nn.Linear(16, 16), nn.Sigmoid())], nn.Linear(16, 4))
    diagnosis = unstuck.diagnose(model, torch.randn(32, 16), torch.randint(0, 4, (32,)), nn.functional.cross_entropy)
    tree, data = parsed(write(diagnosis))
    assert [row[0] for row in data["rows"]] == [layer.name for layer in diagnosis.measurement.layers]
    assert len(tree.all("li", class_="finding")) == len(diagnosis.findings) > 0


def test_a_notebook_shows_the_verdict_the_findings_and_the_layers_in_a_few_kilobytes():
    diagnosis = diagnoses.broken()
    html = diagnosis._repr_html_()
    assert len(html) < 10_000
    for part in ("1 error, 1 warning", "US101 error: vanishing gradient", "prepare(model, inputs)", "gradient profile"):
        assert part in html
    assert "<script" not in html
    assert len(diagnoses.broken(2500, decay=1.01)._repr_html_()) < 10_000


@pytest.mark.parametrize("name", EVIL)
def test_names_in_a_notebook_are_text(name):
    diagnosis = diagnoses.broken(3, name=f"{{}}.{name}")
    findings = [replace(f, message=name, remedy=name, call=name, name=name) for f in diagnosis.findings]
    measured = replace(diagnosis.measurement, notes=(name,), loss=1.0, loss_function=name)
    html = replace(diagnosis, findings=tuple(findings), measurement=measured)._repr_html_()
    assert {e["tag"] for e in Tree(html.replace("<br>", "")).elements} <= {"div", "p", "b", "ul", "li", "pre"}
