"""Text for a terminal: no line is too wide."""

import io
import os
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unstuck_support.measurements import stack, vanishing

from unstuck.diagnosis import Diagnosis
from unstuck.language.terminal import printable, shortened, text_width, wrapped

ANYTHING = st.text(alphabet=st.characters(codec=None))


@pytest.mark.parametrize(("text", "count"), [("", 0), ("abc", 3), ("感知机", 6), ("ｱ", 1), ("é", 1), ("e\u0301", 1)])
def test_wide_characters_take_two_columns_and_combining_ones_none(text, count):
    assert text_width(text) == count


@given(ANYTHING)
def test_control_characters_are_escaped(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("name", "limit", "short"),
    [
        ("encoder.layers.11.attention.output.dense", 80, "encoder.layers.11.attention.output.dense"),
        ("encoder.layers.11.attention.output.dense", 36, "encoder…11.attention.output.dense"),
        ("encoder.layers.11.attention.output.dense", 24, "encoder…11…output.dense"),
        ("encoder.layers.11.attention.output.dense", 17, "…11…output.dense"),
        ("encoder.layers.11.attention.output.dense", 10, "…11…dense"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default", 36, "…layers.0.self_attn.q_proj.lora_A"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default", 20, "…0…q_proj.lora_A"),
        ("base_model.model.h.0.mlp.c_fc.lora_B.default.weight", 18, "…h.0…lora_B.weight"),
        ("abcdefghijkl", 7, "ab…ijkl"),
        ("感知机的很长的名字", 9, "感…的名字"),
    ],
)
def test_a_name_is_shortened_in_the_middle_and_keeps_its_ends_and_its_number(name, limit, short):
    assert shortened(name, limit) == short


@given(ANYTHING, st.integers(1, 30))
def test_a_shortened_text_never_takes_more_columns_than_it_may(text, limit):
    assert text_width(shortened(text, limit)) <= limit


@given(ANYTHING, st.integers(4, 40))
def test_wrapped_lines_fit_and_keep_every_short_word(text, limit):
    lines = wrapped(text, limit)
    assert all(text_width(line) <= limit for line in lines)
    words = [printable(word) for word in text.split()]
    if all(text_width(word) <= limit for word in words):
        assert "".join(lines).replace(" ", "") == "".join(words)
        unbroken = [word for word in words if word.isascii()]  # lines may break between Chinese characters
        assert set(unbroken) <= set(" ".join(lines).split())


BROKEN = Diagnosis(stack(30, 1e-2), (vanishing(*(f"net.{i}" for i in range(20)), call="sc.convert(model)"),))


class Terminal(io.TextIOWrapper):
    """Standard output of this encoding, a terminal or not."""

    def __init__(self, encoding="utf-8", terminal=True):
        super().__init__(io.BytesIO(), encoding, write_through=True)
        self._terminal = terminal

    def isatty(self):
        return self._terminal


def longest(text):
    return max(map(text_width, text.splitlines()))


@pytest.mark.parametrize(("wide", "most"), [(20, 40), (40, 40), (64, 64), (90, 90), (300, 100)])
def test_a_diagnosis_is_as_wide_as_the_terminal_within_limits(monkeypatch, wide, most):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback: os.terminal_size((wide, 24)))
    assert most - 8 <= longest(str(BROKEN)) <= most


def test_without_a_terminal_it_has_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    for stdout in (Terminal(terminal=False), io.StringIO(), None):
        monkeypatch.setattr(sys, "stdout", stdout)
        assert 72 <= longest(str(BROKEN)) <= 80


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_an_encoding_without_bars_and_arrows_gets_ascii(monkeypatch, encoding):
    stdout = Terminal(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", stdout)
    named = replace(BROKEN, measurement=replace(BROKEN.measurement, notes=("层",)))
    print(named)
    print(repr(named))
    written = stdout.buffer.getvalue().decode(encoding)
    assert "##" in written
    assert "  > A sigmoid" in written
    assert longest(written) <= 80


def test_utf_8_gets_bars_and_arrows(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal("utf-8"))
    assert "█" in str(BROKEN)
    assert "→" in str(BROKEN)


def test_its_repr_is_one_line_with_the_verdict():
    assert repr(BROKEN) == "<Diagnosis: 1 error in 59 layers>"
    assert repr(Diagnosis(stack(4, 1.1), ())).startswith("<Diagnosis: healthy: 7 layers")
