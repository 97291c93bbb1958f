"""A diagnosis as text. golden/ holds the expected output of each test; GOLDEN=write writes it again."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unstuck_support.measurements import anything, changed, dead, few, frozen, stack, vanishing

from unstuck.diagnosis import Diagnosis
from unstuck.findings import Finding, Severity
from unstuck.language.terminal import NARROWEST, WIDEST, text_width
from unstuck.measure.measurement import Layer, Measurement
from unstuck.report.layers import ROWS, SHORT
from unstuck.report.text import to_text

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def is_as_kept(request):
    """Compare a printed diagnosis with the file that has the name of the test."""

    def compare(diagnosis):
        text, path = str(diagnosis) + "\n", GOLDEN / f"{request.node.name.removeprefix('test_')}.txt"
        assert all(text_width(line) <= 80 for line in text.splitlines())
        if os.environ.get("GOLDEN") == "write":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare


def rows(text):
    """Lines of the table, without its heading."""
    lines = text.split("gradient profile, input to loss")[1].split("\n\n")[0].splitlines()
    return lines[2:]


def test_a_healthy_network_is_called_healthy(is_as_kept):
    is_as_kept(Diagnosis(stack(4, 1.1, "ReLU"), ()))


def test_a_short_network_shows_every_layer(is_as_kept):
    is_as_kept(Diagnosis(stack(8), (vanishing("net.0", "net.2", "net.4", "net.6", "net.8"), dead("net.5"))))


def test_a_thousand_layers_show_the_worst_and_evenly_spaced_others(is_as_kept):
    found = (vanishing(*(f"net.{i}" for i in range(0, 1900, 2))), dead("net.7", "net.1301"))
    is_as_kept(Diagnosis(stack(1000), found))


def test_notes_do_not_make_a_network_broken(is_as_kept):
    is_as_kept(Diagnosis(stack(2, 1.0), (frozen("net.0.weight"),)))


def test_long_names_keep_their_ends_and_their_number(is_as_kept):
    name = "encoder.layers.{}.feed_forward.projection.inner"
    names = [name.format(i) for i in (0, 2, 4)]
    is_as_kept(Diagnosis(stack(30, 1.2, name=name), (vanishing(*names),)))


def test_wide_characters_and_escapes_do_not_break_the_columns(is_as_kept):
    measurement = stack(4, 1.2, name="层{}.感知机")
    measurement = changed(measurement, 1, name="e\u0301\x1b[31m", kind="Сигмоида")
    is_as_kept(Diagnosis(measurement, (vanishing("层0.感知机"),)))


def test_zero_nonfinite_and_unknown_numbers_are_distinct(is_as_kept):
    measurement = stack(4)
    measurement = changed(measurement, 0, gradient=None)
    measurement = changed(measurement, 1, gradient=0.0, gain=0.0, saturated=0.001, relative_slope=1e-9)
    measurement = changed(measurement, 2, gradient=math.nan, gain=math.nan, nonfinite=123_456_789)
    measurement = changed(measurement, 3, gradient=math.inf, gain=math.inf, nonfinite=12, saturated=0.999)
    found = Finding(
        "US401",
        "non-finite numbers",
        Severity.ERROR,
        ("net.2", "net.3"),
        math.nan,
        0.0,
        "123456789 numbers of 'net.2' are not finite; it is the first of them.",
        "Lower the learning rate.",
    )
    is_as_kept(Diagnosis(replace(measurement, loss=math.nan), (found,)))


def test_a_training_shows_its_range_of_steps(is_as_kept):
    measurement = replace(stack(2, 1.0), step=12_000, ranks=2)
    history = (*(replace(measurement, step=100 * i) for i in range(120)), measurement)
    is_as_kept(Diagnosis(measurement, (), history, steps=12_034))


def test_unseen_parts_come_last(is_as_kept):
    notes = ("'body' has a custom autograd function, which is not seen: " + "it counts for what is behind it. " * 3,)
    is_as_kept(Diagnosis(replace(stack(2, 1.0), notes=notes + ("another",) * 9, step=3), ()))


def test_a_network_without_layers_is_not_called_healthy(is_as_kept):
    is_as_kept(Diagnosis(Measurement((), (), 1), ()))


def test_layers_without_a_gradient_have_no_bars(is_as_kept):
    layers = [replace(layer, gradient=None, gain=None) for layer in stack(2).layers]
    is_as_kept(Diagnosis(replace(stack(2), layers=tuple(layers)), ()))


def test_the_statements_of_a_call_have_a_line_each_however_wide():
    names = [f"encoder.layers.{i}.feed_forward.projection.inner" for i in range(3)]
    call = f"sc.convert(model, include={names})"
    text = to_text(Diagnosis(stack(2), (vanishing("net.0", call=f"{call}\nsc.prepare(model, inputs)"),)))
    assert f"\n      {call}\n      sc.prepare(model, inputs)\n" in text


@pytest.mark.parametrize("depth", [1, 2, 10, 11, 20, 333, 5000])
def test_a_long_network_fills_the_table_and_a_short_one_is_shown_in_full(depth):
    count = 2 * depth - 1
    text = to_text(Diagnosis(stack(depth, 1.1), ()))
    assert len(rows(text)) in ([count] if count <= SHORT else [ROWS - 1, ROWS])


def test_the_first_layers_of_a_finding_are_in_the_table():
    names = ["net.1234", "net.77", "net.500"]
    text = to_text(Diagnosis(stack(1000, 1.1), (vanishing(*names, "net.9", "net.10"),)))
    for name in names:
        (row,) = [row for row in rows(text) if f" {name} " in row]
        assert row.endswith("US101")


def test_a_finding_about_a_parameter_marks_the_layer_that_uses_it():
    text = to_text(Diagnosis(stack(2), (frozen("net.2.weight"),)))
    assert [row.endswith("US502") for row in rows(text)] == [False, False, True]


@pytest.mark.parametrize("depth", [3, 300])
def test_rows_are_in_the_order_of_the_forward_pass(depth):
    found = [int(row.split("net.")[1].split()[0]) for row in rows(to_text(Diagnosis(stack(depth), (dead("net.4"),))))]
    assert found == sorted(found)


NUMBERS = st.none() | st.floats() | st.floats(0, 1)
NAMES = st.text(st.characters(codec=None), max_size=60)
LAYER = anything(
    Layer, name=NAMES, module=NAMES, kind=NAMES, nonfinite=st.integers(0, 10**12),
    **dict.fromkeys(("gradient", "gain", "spread", "relative_slope", "saturated", "dead"), NUMBERS),
    sources=st.just(()),
)  # fmt: skip
CALLS = st.none() | st.just("sc.convert(model, centered=True)\nsc.prepare(model, inputs)")
FINDING = anything(Finding, name=NAMES, layers=st.lists(NAMES, max_size=6).map(tuple), message=NAMES, call=CALLS)


@settings(max_examples=30)
@given(
    st.lists(LAYER, max_size=24),
    few(FINDING),
    st.lists(NAMES, max_size=7),
    st.integers(NARROWEST, WIDEST),
)
def test_any_measurement_fits_any_terminal(layers, findings, notes, width):
    measurement = Measurement(tuple(layers), (), 8, loss=math.nan, loss_function="x" * 200, notes=tuple(notes))
    for line in to_text(Diagnosis(measurement, findings), width).split("\n"):
        assert text_width(line) <= width
        assert line == line.rstrip()
        assert line.isprintable()
