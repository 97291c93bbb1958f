"""What is written is what Python reads."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmoidcore.training.runs import toml

texts = st.text(st.characters(codec="utf-8"))
values = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), texts, st.lists(texts)
)  # fmt: skip


@given(st.dictionaries(texts, values), st.dictionaries(texts, values))
def test_any_texts_numbers_and_lists_come_back(top, table):
    top.pop("options", None)
    assert tomllib.loads(toml.written({**top, "options": table}, "one\ntwo")) == {**top, "options": table}


def test_none_is_left_out():
    assert toml.written({"a": None, "options": {"b": None}}) == "\n[options]\n"


@pytest.mark.parametrize(
    "data", [b"\xff", b"a = ", b"[" * 100_000, b"a = 1\na = 2", b"a = " + b"9" * 100_000, b"x" * 2**21]
)
def test_what_is_no_toml_is_said_in_one_line_that_does_not_quote_it(data):
    with pytest.raises(ValueError, match=r"a\.toml") as caught:
        toml.read(data, Path("a.toml"))
    assert len(str(caught.value)) < 150
    assert "\n" not in str(caught.value)
