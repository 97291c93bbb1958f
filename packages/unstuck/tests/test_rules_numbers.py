"""US3 and US4: updates and numbers, on measurements that are made up."""

import math
from dataclasses import replace

import pytest
from unstuck_support.layers import chain, only, rules, with_weight
from unstuck_support.measurements import changed

from unstuck.findings import Severity
from unstuck.measure.measurement import Weight
from unstuck.rules import find


def training(*updates, **weight):
    """A measurement for each update of the first weight; the second one's are healthy."""
    found = []
    for step, update in enumerate(updates):
        one = with_weight(chain(1.0, 1.0, step=step), "0.weight", **({"update": update, "size": 2.0} | weight))
        found.append(with_weight(one, "2.weight", update=1e-3, size=1.0 + step))
    return found


def test_updates_below_the_rounding_are_too_small():
    finding = only(*training(1e-9, 1e-8, 1e-8))
    assert (finding.rule, finding.layers, finding.value) == ("US301", ("0.weight",), 1e-8)


@pytest.mark.parametrize(
    "updates", [(0.0, 1e-9, 1e-5), (1e-3, 1e-9, 0.0), (1e-9, 1e-9)], ids=["warm-up", "decay", "too few"]
)
def test_warm_up_decay_and_two_measurements_are_healthy(updates):
    assert rules(*training(*updates)) == []


def test_a_weight_without_an_optimizer_is_found_unless_its_size_changes():
    assert rules(*training(None, None, None)) == ["US301"]
    of_another = [with_weight(m, "0.weight", size=1.0 + i) for i, m in enumerate(training(None, None, None))]
    assert rules(*of_another) == []


@pytest.mark.parametrize("weight", [{"trains": False}, {"gradient": 0.0}, {"shape": (10,)}, {"size": 0.0}])
def test_updates_of_frozen_weights_zero_weights_and_biases_are_not_judged(weight):
    assert {"US301", "US302"}.isdisjoint(rules(*training(0.0, 0.0, 0.0, **weight)))
    if "gradient" not in weight:
        assert {"US301", "US302"}.isdisjoint(rules(*training(9.0, 9.0, 9.0, **weight)))


@pytest.mark.parametrize(("size", "expected"), [(0.09, None), (0.11, "warning"), (1.1, "error")])
def test_updates_of_more_than_a_tenth_are_too_large(size, expected):
    found = find(training(1e-3, size, size, size, 1e-3))
    assert [(f.rule, f.severity) for f in found] == ([] if expected is None else [("US302", expected)])


def test_a_head_that_starts_small_may_grow_fast_and_scales_and_positions_may():
    assert rules(*training(0.3, 0.3, 0.3, size=0.05)) == []
    assert rules(*training(30.0, 30.0, 30.0, size=0.05)) == ["US302"]
    scale = [replace(m, weights=(*m.weights, Weight("gamma", (10, 1), size=2.0, gradient=1.0, update=9.0)))
             for m in training(1e-3, 1e-3, 1e-3)]  # fmt: skip
    assert rules(*scale) == []


def test_the_first_layer_with_nan_is_named_and_its_consequences_are_not():
    found = chain(*[math.nan] * 6, loss=math.nan)
    for at in range(4, 11):
        found = changed(found, at, nonfinite=3, spread=math.nan, rms=math.nan)
    finding = only(found)
    assert (finding.rule, finding.severity, finding.layers) == ("US401", "error", ("4",))
    assert finding.message.startswith("`4` is the first layer whose output has inf or NaN (3 numbers).")


def test_inputs_come_before_weights_weights_before_layers_and_layers_before_the_loss():
    found = chain(1.0, 1.0, loss=math.inf, loss_function="mse_loss")
    assert only(found).message.startswith("The loss is inf")
    found = changed(found, 0, nonfinite=1)
    assert only(found).layers == ("0",)
    found = with_weight(found, "0.weight", nonfinite=2)
    assert only(found).layers == ("0.weight",)
    assert "inputs" in only(replace(found, input_nonfinite=1)).message


def test_the_first_gradient_with_nan_on_the_way_back_is_named():
    found = changed(changed(chain(1.0, 1.0, 1.0), 0, gradient=math.nan), 2, gradient=math.inf, nonfinite_gradient=4)
    assert only(found).layers == ("2",)


def test_the_step_at_which_nan_began_is_named():
    well, ill = chain(1.0, 1.0), changed(chain(math.nan, math.nan), 2, nonfinite=5)
    worse = with_weight(changed(ill, 0, nonfinite=5), "0.weight", nonfinite=100)
    history = [replace(m, step=100 * i) for i, m in enumerate([ill, well, ill, worse, worse])]
    assert only(*history).layers == ("2",)
    assert only(*history).message.endswith("It began at step 200.")
    assert rules(*history[:2]) == []


def test_one_overflow_of_a_float16_gradient_in_training_is_a_note():
    found = changed(chain(1.0, 1.0, step=0), 0, dtype="float16", gradient=math.inf, nonfinite_gradient=1)
    assert only(found).severity is Severity.NOTE
    assert only(found, replace(found, step=1)).severity is Severity.ERROR
    assert only(replace(found, step=None)).severity is Severity.ERROR


def test_a_nan_loss_after_finite_layers_points_to_the_targets():
    assert "targets" in only(chain(1.0, 1.0, loss=math.nan, loss_function="cross_entropy")).remedy
