"""US1: the gradient over the layers and through time, on measurements that are made up."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unstuck_support.layers import chain, linear, measurement, only, powers, residual, rules, with_weight
from unstuck_support.measurements import changed

from unstuck.measure.measurement import Layer, Weight
from unstuck.rules import RULES, find
from unstuck.rules.gradient import remembered
from unstuck.rules.modes import fewest_rows


@pytest.mark.parametrize(
    ("lowest", "expected"),
    [(1.1e-3, None), (0.9e-3, "note"), (1.1e-4, "note"), (0.9e-4, "warning"), (1.1e-6, "warning"), (0.9e-6, "error")],
)
def test_a_vanishing_gradient_is_a_note_below_1e_3_a_warning_below_1e_4_an_error_below_1e_6(lowest, expected):
    found = find([chain(lowest, 1.0, 1.0)])
    assert [f.severity for f in found] == ([] if expected is None else [expected])
    assert all(f.rule == "US101" and f.layers == ("0",) and f.value == pytest.approx(lowest) for f in found)


@pytest.mark.parametrize(
    ("largest", "expected"), [(0.9e3, None), (1.1e3, "warning"), (0.9e6, "warning"), (1.1e6, "error")]
)
def test_an_exploding_gradient_is_a_warning_above_1e3_and_an_error_above_1e6(largest, expected):
    found = find([chain(largest, 1.0, 1.0)])
    assert [f.severity for f in found] == ([] if expected is None else [expected])
    assert all(f.rule == "US102" and f.layers == ("0",) for f in found)


def test_a_batch_normalisation_of_few_samples_is_steep_and_not_an_explosion():
    few, many = ({fewest_rows.name: count} for count in (16, 64))
    assert rules(chain(1e4, 1e4, 1.0, answers=few)) == []
    assert rules(chain(1e4, 1e4, 1.0, answers=many)) == ["US102"]
    assert rules(chain(1e7, 1e7, 1.0, answers=few)) == ["US102"]


def test_layers_are_named_worst_first_with_their_median_gain():
    finding = only(chain(*powers(0.1, 9)))
    assert finding.layers == ("0", "2", "4", "6", "8")
    assert "`0` to `8` (5 of 9 layers)" in finding.message
    assert "The median gain of a layer is 0.1." in finding.message


def test_the_layer_before_a_single_bad_segment_is_named_first():
    finding = only(chain(*[1e-7] * 5, 1.0, 1.0))
    assert finding.layers[0] == "8"
    assert "The largest change is between `8` and `10` (gain 1e-7)" in finding.message


def test_a_thousand_layers_fit_into_one_sentence():
    finding = only(chain(*powers(0.5, 1000)))
    assert len(finding.layers) > 900
    assert len(finding.message) < 300


@pytest.mark.parametrize("inside", [0.0, 1e-9, 1.0])
def test_branches_beside_a_skip_connection_may_have_a_small_gradient(inside):
    assert rules(residual(inside)) == []


def test_a_residual_network_with_a_small_gradient_at_its_stem_is_found():
    assert rules(residual(1e-9, stem=1e-5)) == ["US101"]


def test_layers_before_weights_that_start_at_zero_are_healthy_at_the_first_step():
    start = chain(0.0, 0.0, 1.0)
    found = find([with_weight(start, "4.weight", size=0.0, gradient=1.0)])
    assert [(f.rule, f.severity) for f in found] == [("US502", "note")]


def test_a_low_rank_adapter_that_starts_at_zero_is_healthy():
    layers = linear("base", None), linear("down", 0.0), linear("up", 1.0, 1), linear("head", 1.0, 0, 2)
    found = measurement(*layers)
    assert rules(with_weight(with_weight(found, "up.weight", size=0.0), "base.weight", trains=False)) == []


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_layer_before_a_normalisation_may_have_any_scale(scale):
    # Its output is `scale` large and its gradient 1 / scale; the ReLU behind the normalisation reads size 1.
    assert rules(changed(chain(1.0, 1.0, 1.0), 0, gradient=1 / scale, rms=scale)) == []


def test_a_branch_does_not_decide_how_much_is_lost():
    found = residual(1e-9, stem=5e-4, blocks=2)
    assert [(f.rule, f.severity) for f in find([found])] == [("US101", "note")]
    assert [(f.rule, f.severity) for f in find([residual(1e-9, stem=5e-7, blocks=2)])] == [("US101", "error")]


def test_layers_that_read_learned_queries_only_may_have_no_gradient():
    queries = linear("queries", 0.0, spread=0.0), linear("attention", 1.0, 0, spread=0.0)
    found = measurement(*queries, linear("memory", 1.0), linear("head", 1.0, 1, 2))
    assert rules(found) == []
    assert rules(changed(changed(found, 0, spread=1.0), 1, spread=1.0)) == ["US502"]


def test_a_head_that_starts_tiny_is_not_a_vanished_gradient():
    found = chain(1e-5, 1e-5, 1.0)
    assert rules(found) == ["US101"]
    assert rules(with_weight(found, "4.weight", size=1e-3)) == []
    assert rules(with_weight(found, "4.weight", size=1e-3, trains=False)) == ["US101"]
    assert rules(with_weight(chain(1e-9, 1e-9, 1.0), "4.weight", size=1e-3)) == ["US101"]


def scaled_branch(level, **gamma):
    """Patches that reach the class token through a branch with a scale of 1e-6 only."""
    layers = linear("patches", level), linear("attention", level, 0, scaled_by=("gamma",)), linear("head", 1.0, 1)
    found = measurement(*layers)
    weight = Weight("gamma", **({"shape": (100,), "size": 1e-5, "gradient": 1.0} | gamma))
    return replace(found, weights=(*found.weights, weight))


def test_a_small_scale_of_a_branch_is_not_a_vanished_gradient():
    assert find([scaled_branch(1e-6)]) == ()
    assert rules(scaled_branch(1e-11)) == ["US101"]


@pytest.mark.parametrize("gamma", [{"size": 10.0}, {"trains": False}, {"gradient": 0.0}, {"gradient": None}])
def test_a_scale_explains_nothing_if_it_is_large_or_cannot_grow(gamma):
    assert "US101" in rules(scaled_branch(1e-6, **gamma))


def attended(query, value, fused):
    """A query of its own input, and keys and values of another; `fused`: one function reads all three."""
    memory, keys = linear("memory", 1.0), linear("keys", query, 1)
    scores = Layer("softmax", "softmax", "softmax()", "attention", (0, 2, 3) if fused else (0, 2), gradient=1.0)
    after = (4,) if fused else (3, 4)
    return measurement(linear("query", query), memory, keys, linear("value", value), scores, linear("out", 1.0, *after))


@pytest.mark.parametrize("fused", [True, False])
def test_a_query_of_an_attention_has_not_vanished_beside_a_sound_value(fused):
    assert rules(attended(1e-5, 1.0, fused)) == []
    assert rules(attended(1e-5, 1e-5, fused)) == ["US101"]
    assert rules(attended(0.0, 1.0, fused)) == ["US502"]


def test_a_shared_weight_is_healthy_if_one_of_its_calls_is():
    shared = changed(chain(1e-5, 1.0, 1.0), 4, weights=("0.weight",))
    assert rules(shared) == []


def test_a_layer_is_compared_with_the_sink_that_it_feeds():
    towers = measurement(linear("a", 1e-8), linear("b", 1e-8, 0), linear("c", 1.0), linear("d", 1.0, 2))
    assert rules(towers) == []


def test_a_head_without_a_gradient_is_not_a_sink():
    assert rules(measurement(linear("trunk", 1.0), linear("used", 1.0, 0), linear("unused", None, 0))) == ["US501"]


networks = st.sampled_from(
    [
        chain(*[1.0] * 6),
        chain(*powers(0.5, 30)),
        chain(*powers(3.0, 30)),
        chain(0.0, 0.0, 1.0),
        residual(0.0),
        residual(1e-9, stem=1e-5),
    ]
)


@given(found=networks, factor=st.floats(1e-30, 1e30))
def test_the_scale_of_the_loss_changes_no_finding(found, factor):
    layers = tuple(replace(layer, gradient=layer.gradient * factor) for layer in found.layers)
    weights = tuple(replace(w, gradient=w.gradient * factor) for w in found.weights)
    scaled = find([replace(found, layers=layers, weights=weights)])
    assert [(f.rule, f.severity, f.layers) for f in scaled] == [(f.rule, f.severity, f.layers) for f in find([found])]


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 1e9, math.inf, math.nan, None]), min_size=1, max_size=8))
def test_any_gradients_give_findings_without_an_exception(gradients):
    assert len(find([chain(*gradients)])) <= len(RULES)


def recurrent(*steps):
    answers = {"memories": [{"module": "rnn", "number": 0, "share": remembered(steps)}]}
    return replace(measurement(linear("rnn", 1.0, kind="LSTM"), linear("head", 1.0, 0)), answers=answers)


def test_a_gradient_below_the_rounding_at_the_first_steps_vanishes_through_time():
    finding = only(recurrent(*powers(0.5, 60)))
    assert (finding.rule, finding.layers) == ("US103", ("rnn",))
    assert finding.value == pytest.approx(0.5**54)  # the best of the first six


def test_short_sequences_and_padding_are_healthy():
    assert rules(recurrent(*powers(0.5, 20))) == []
    assert rules(recurrent(*[0.0] * 30, *[1.0] * 30)) == []  # padding in front
    assert rules(recurrent(*[1.0] * 30, *[0.0] * 30)) == []  # and behind
    assert rules(recurrent(*[0.0] * 60)) == []
