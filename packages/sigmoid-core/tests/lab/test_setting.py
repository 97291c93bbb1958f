"""Set-ups: as values, as the query of a URL, and within bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmoidcore.lab.setting import Setting, flat, parse, query, schema
from unstuck.language.errors import InputError


def test_a_url_gives_back_its_set_up():
    setting = parse({"data": "spirals", "depth": "77", "a.kind": "resnet", "b.equalizer": "false", "b.rate": 0.002})
    assert (setting.depth, setting.a.kind, setting.b.equalizer, setting.b.rate) == (77, "resnet", False, 0.002)
    pairs = dict(pair.split("=") for pair in query(setting).split("&"))
    assert parse(pairs) == setting
    assert query(Setting()) == ""
    assert parse({}) == Setting()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("depth", 0, "from 1 to 1000"),
        ("depth", "1001", "from 1 to 1000"),
        ("depth", 2.5, "a whole number"),
        ("depth", True, "'True'"),
        ("depth", "1e999", "from 1 to 1000"),
        ("width", None, "from 2 to 256"),
        ("a.rate", "nan", "from 1e-06 to 10"),
        ("b.kind", "transformer", "choose one of sigmoid"),
        ("b.kind", ["sigmoid"], "choose one of sigmoid"),
        ("a.equalizer", "perhaps", "give true or false"),
        ("dpeth", 3, "the names are data, depth, width"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_bounds(name, value, part):
    with pytest.raises(InputError) as error:
        parse({name: value})
    assert part in str(error.value)
    assert name in str(error.value)


def test_depth_and_width_together_are_bounded():
    with pytest.raises(InputError, match="make it at most 70 neurons"):
        parse({"depth": 1000, "width": 256})


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(sorted(flat(Setting()))) | st.text(max_size=9), JSON, max_size=4))
def test_any_values_give_a_set_up_within_its_bounds_or_an_input_error(values):
    try:
        setting = parse(values)
    except InputError:
        return
    for name, value in flat(setting).items():
        bounds = schema()[name]
        assert value in bounds["names"] if "names" in bounds else True
        assert bounds["low"] <= value <= bounds["high"] and math.isfinite(value) if "low" in bounds else True
