"""Columns of a terminal: nothing is wider than it may be, and folded code still means the same."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmoidcore.diagnosis.report.columns import columns, folded, left, printable, right, shortened, wrapped

ANYTHING = st.text(alphabet=st.characters(codec=None))


@pytest.mark.parametrize(("text", "count"), [("", 0), ("abc", 3), ("感知机", 6), ("ｱ", 1), ("é", 1), ("e\u0301", 1)])
def test_wide_characters_take_two_columns_and_combining_ones_none(text, count):
    assert columns(text) == count


@settings(deadline=None)
@given(ANYTHING)
def test_what_a_terminal_would_obey_is_written_as_an_escape(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_an_escape_sequence_colours_nothing():
    assert printable("a\x1b[31m\n\ud800") == r"a\x1b[31m\n\ud800"


@pytest.mark.parametrize(
    ("name", "limit", "short"),
    [
        ("encoder.layers.11.attention.output.dense", 80, "encoder.layers.11.attention.output.dense"),
        ("encoder.layers.11.attention.output.dense", 36, "encoder…11.attention.output.dense"),
        ("encoder.layers.11.attention.output.dense", 24, "encoder…11…output.dense"),
        ("encoder.layers.11.attention.output.dense", 17, "encoder…11…dense"),
        ("encoder.layers.11.attention.output.dense", 10, "enc…dense"),
        ("abcdefghijkl", 7, "ab…ijkl"),
        ("感知机的很长的名字", 9, "感…的名字"),
    ],
)
def test_a_name_is_shortened_in_the_middle_and_keeps_its_ends_and_its_number(name, limit, short):
    assert shortened(name, limit) == short


@settings(deadline=None)
@given(ANYTHING, st.integers(1, 30))
def test_a_shortened_text_never_takes_more_columns_than_it_may(text, limit):
    assert columns(shortened(text, limit)) <= limit


@settings(deadline=None)
@given(ANYTHING)
def test_padding_fills_columns_not_characters(text):
    assert columns(left(text, 200)) == columns(right(text, 200)) == max(200, columns(text))


@settings(deadline=None)
@given(ANYTHING, st.integers(4, 40))
def test_wrapped_lines_fit_and_keep_every_short_word(text, limit):
    lines = wrapped(text, limit)
    assert all(columns(line) <= limit for line in lines)
    words = [printable(word) for word in text.split()]
    if all(columns(word) <= limit for word in words):
        assert " ".join(lines) == " ".join(words)


CALLS = [
    "sc.prepare(model, inputs)",
    "sc.convert(model, include=['encoder.layers.0.activation', 'encoder.layers.1.activation'], nearest=('head.gate',))",
    "report = sc.prepare(model, inputs, targets, loss_fn, level=0.5, exclude=['a', 'b', 'c'], generator=generator)",
    "optimizer = torch.optim.Adam(model.parameters(), lr=sc.depth_scaled_lr(model, torch.float32), betas=(0.9, 0.99))",
    "sc.convert(model, include='" + "a.very.long.name." * 12 + "')",
    "sc.convert(model,\n    include=['encoder.layers.0.activation.that.has.a.long.name', 'encoder.layers.1'])",
    "sc.convert(model); sc.prepare(model, [inputs_of_the_first_batch, inputs_of_the_second_batch, 'it\\'s \"both\"'])",
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("limit", [44, 72])
def test_a_call_is_folded_into_lines_that_fit_and_run_the_same(call, limit):
    lines = folded(call, limit)
    assert all(columns(line) <= limit for line in lines)
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(call))


@settings(deadline=None)
@given(st.lists(ANYTHING, min_size=1, max_size=4))
def test_names_in_a_call_are_kept_whatever_characters_they_have(names):
    call = f"sc.convert(model, include={names!r})"
    lines = folded(call, 60)
    assert all(columns(line) <= 60 for line in lines)
    assert ast.literal_eval(ast.parse("\n".join(lines)).body[0].value.keywords[0].value) == names


def test_a_call_that_fits_is_not_touched():
    assert folded("sc.prepare( model,inputs )", 72) == ["sc.prepare( model,inputs )"]


def test_what_is_no_python_is_wrapped():
    lines = folded("take a smaller learning rate, then look again " * 3, 40)
    assert " ".join(lines) == ("take a smaller learning rate, then look again " * 3).strip()


def test_a_name_too_long_to_fold_is_shortened():
    assert folded("x" * 100 + "(model)", 20) == ["xxxxxx…xxxxxx(model)"]
