"""A diagnosis where it is shown: on standard output of any width and encoding, as one line, in a notebook."""

import io
import os
import re
import sys
from dataclasses import replace

import pytest
from support.measurements import dead, stack, vanishing

from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.report.columns import columns

BROKEN = Diagnosis(stack(30, 1e-2), (vanishing(*(f"net.{i}" for i in range(20)), call="sc.convert(model)"),))


class Terminal(io.TextIOWrapper):
    """Standard output of this encoding, a terminal or not."""

    def __init__(self, encoding="utf-8", terminal=True):
        super().__init__(io.BytesIO(), encoding, write_through=True)
        self._terminal = terminal

    def isatty(self):
        return self._terminal


def longest(text):
    return max(map(columns, text.splitlines()))


@pytest.mark.parametrize(("wide", "most"), [(20, 40), (40, 40), (64, 64), (90, 90), (300, 100)])
def test_a_diagnosis_is_as_wide_as_the_terminal_within_limits(monkeypatch, wide, most):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size((wide, 24)))
    assert most - 8 <= longest(str(BROKEN)) <= most


def test_where_no_terminal_is_it_has_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    for stdout in (Terminal(terminal=False), io.StringIO(), None):
        monkeypatch.setattr(sys, "stdout", stdout)
        assert 72 <= longest(str(BROKEN)) <= 80


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_an_output_without_bars_and_arrows_can_be_printed_to(monkeypatch, encoding):
    stdout = Terminal(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", stdout)
    named = replace(BROKEN, measurement=replace(BROKEN.measurement, notes=("层",)))
    print(named)
    print(repr(named))
    written = stdout.buffer.getvalue().decode(encoding)
    assert "##" in written
    assert "  > A sigmoid" in written
    assert longest(written) <= 80


def test_an_output_with_bars_and_arrows_gets_them(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8"))
    assert "█" in str(BROKEN)
    assert "→" in str(BROKEN)


def test_its_repr_is_one_line_with_the_verdict():
    assert repr(BROKEN) == "<Diagnosis: 1 error in 59 layers>"
    assert repr(Diagnosis(stack(4, 1.1), ())).startswith("<Diagnosis: healthy: 7 layers")


def test_a_notebook_shows_the_verdict_the_findings_and_the_layers_in_a_few_kilobytes():
    html = BROKEN._repr_html_()
    assert len(html) < 10_000
    for part in ("1 error in 59 layers", "SC101 error: vanishing gradient", "sc.convert(model)", "gradient profile"):
        assert part in html
    assert "<script" not in html
    assert len(Diagnosis(stack(5000, 1.01), BROKEN.findings)._repr_html_()) < 10_000


def test_what_a_notebook_shows_of_names_is_text_and_no_markup():
    evil = "<img src=x onerror=alert(1)>\n</pre>&"
    finding = replace(dead(evil), message=evil, remedy=evil, call=evil, name=evil)
    measurement = replace(stack(2), notes=(evil,), loss=1.0, loss_function=evil)
    html = Diagnosis(measurement, (finding,))._repr_html_()
    assert set(re.findall(r"<(/?\w+)", html)) <= {
        t for n in ("div", "p", "b", "ul", "li", "pre") for t in (n, f"/{n}")
    } | {
        "br",
        "code",
        "/code",
    }
