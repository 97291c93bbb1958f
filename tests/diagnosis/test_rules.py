"""Every rule on measurements that are made up, broken and nearly so; then on real networks."""

import importlib.util
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import sigmoidcore as sc
from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight
from sigmoidcore.diagnosis.rules import RULES, find
from sigmoidcore.diagnosis.rules.wording import listed, share

IDS = [rule.id for rule in RULES]


# --- measurements that are made up ------------------------------------------------------------------------------------


def linear(name, gradient, *sources, **others):
    """A layer with weights and its weight; rms 1, spread 1 if nothing else is said."""
    given = {"rms": 1.0, "spread": 1.0, "shape": (64, 10), "weights": (f"{name}.weight",)} | others
    return Layer(name, name, given.pop("kind", "Linear"), "weights", sources=sources, gradient=gradient, **given)


def activation(name, gradient, *sources, **others):
    given = {"rms": 1.0, "spread": 1.0, "shape": (64, 10), "rows": 64} | others
    return Layer(name, name, given.pop("kind", "ReLU"), "activation", sources=sources, gradient=gradient, **given)


def measurement(*layers, weights=None, **others):
    """Of these layers; each weight has size 1 and the gradient of its layer."""
    if weights is None:
        own = {w: layer.gradient for layer in layers for w in layer.weights}
        weights = tuple(Weight(name, (10, 10), size=1.0, gradient=g) for name, g in own.items())
    given = {"samples": 64, "loss": 2.0, "input_spread": 1.0} | others
    return Measurement(tuple(layers), tuple(weights), **given)


def chain(*gradients, activations=True, **others):
    """Layers one after the other, with these gradient sizes; a ReLU after each but the last, which adds nothing."""
    layers = []
    for i, gradient in enumerate(gradients):
        layers.append(linear(str(2 * i), gradient, *([len(layers) - 1] if layers else [])))
        if activations and i < len(gradients) - 1:
            layers.append(activation(str(2 * i + 1), gradients[i + 1], len(layers) - 1))
    return measurement(*layers, **others)


def powers(factor, count):
    """A gradient that falls (or grows) by this factor in each layer on its way back."""
    return [factor ** (count - 1 - i) for i in range(count)]


def residual(inside, stem=1.0, blocks=4):
    """A stem, blocks of two layers beside a skip connection, and a head."""
    layers, stream = [linear("stem", stem)], [0]
    for b in range(blocks):
        at = len(layers)
        layers += [
            linear(f"{b}.up", inside, *stream),
            activation(f"{b}.relu", inside, at),
            linear(f"{b}.down", stem, at + 1),
        ]
        stream.append(at + 2)
    return measurement(*layers, linear("head", 1.0, *stream))


def changed(found, at, **values):
    """With other values of one layer."""
    layers = list(found.layers)
    layers[at] = replace(layers[at], **values)
    return replace(found, layers=tuple(layers))


def with_weight(found, name, **values):
    """With other values of one weight."""
    return replace(found, weights=tuple(replace(w, **values) if w.name == name else w for w in found.weights))


def rules(*measurements):
    """Identifiers of what is found, errors and warnings only."""
    return [f.rule for f in find(measurements) if f.severity is not Severity.NOTE]


def only(*measurements):
    (finding,) = find(measurements)
    return finding


# --- the set ----------------------------------------------------------------------------------------------------------


def test_identifiers_are_unique_sorted_and_hide_only_for_rules_that_exist():
    assert sorted(set(IDS)) == IDS
    assert all(set(rule.hidden_by) <= set(IDS) - {rule.id} for rule in RULES)


def test_nothing_measured_is_nothing_found():
    assert find([]) == ()
    assert find([Measurement((), (), 0)]) == ()


def test_a_level_chain_is_healthy():
    assert find([chain(*[1.0] * 50)]) == ()


def test_errors_come_before_warnings_and_warnings_before_notes():
    broken = chain(1e-9, 1e-5, 1.0, loss_function="cross_entropy", loss_reads=3)
    half_dead = replace(broken.layers[1], kind="ReLU", dead=0.5, rows=100, neurons=10, saturated=None)
    found = find([replace(broken, layers=(broken.layers[0], half_dead, *broken.layers[2:]))])
    assert [(f.rule, f.severity) for f in found] == [("SC101", "error"), ("SC601", "warning"), ("SC202", "note")]


# --- SC101, SC102 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lowest", "expected"),
    [(1.1e-3, None), (0.9e-3, "note"), (1.1e-4, "note"), (0.9e-4, "warning"), (1.1e-6, "warning"), (0.9e-6, "error")],
)
def test_the_gradient_is_small_below_1e_3_has_vanished_below_1e_4_and_below_1e_6_it_is_an_error(lowest, expected):
    found = find([chain(lowest, 1.0, 1.0)])
    assert [f.severity for f in found] == ([] if expected is None else [expected])
    assert all(f.rule == "SC101" and f.layers == ("0",) and f.value == pytest.approx(lowest) for f in found)


@pytest.mark.parametrize(
    ("largest", "expected"), [(0.9e3, None), (1.1e3, "warning"), (0.9e6, "warning"), (1.1e6, "error")]
)
def test_the_gradient_has_exploded_above_a_thousand_and_above_a_million_it_is_an_error(largest, expected):
    found = find([chain(largest, 1.0, 1.0)])
    assert [f.severity for f in found] == ([] if expected is None else [expected])
    assert all(f.rule == "SC102" and f.layers == ("0",) for f in found)


def test_layers_are_named_worst_first_and_a_steady_loss_is_said_to_be_one():
    finding = only(chain(*powers(0.1, 9)))
    assert finding.layers == ("0", "2", "4", "6", "8")
    assert "`0` to `8` (5 of 9 layers)" in finding.message
    assert "It shrinks everywhere: the median gain of a layer is 0.1." in finding.message


def test_where_one_segment_loses_the_gradient_the_layer_before_it_is_named_first():
    finding = only(chain(*[1e-7] * 5, 1.0, 1.0))
    assert finding.layers[0] == "8"
    assert "Most is lost between `8` and `10` (gain 1e-07)" in finding.message


def test_a_thousand_layers_fit_into_one_sentence():
    finding = only(chain(*powers(0.5, 1000)))
    assert len(finding.layers) > 900
    assert len(finding.message) < 300


@pytest.mark.parametrize("inside", [0.0, 1e-9, 1.0])
def test_branches_beside_a_skip_connection_may_have_any_small_gradient(inside):
    assert rules(residual(inside)) == []


def test_a_residual_network_whose_stem_gets_nothing_either_has_a_vanished_gradient():
    assert rules(residual(1e-9, stem=1e-5)) == ["SC101"]


def test_layers_before_weights_that_start_at_zero_are_healthy_at_the_first_step():
    start = chain(0.0, 0.0, 1.0)
    found = find([with_weight(start, "4.weight", size=0.0, gradient=1.0)])
    assert [(f.rule, f.severity) for f in found] == [("SC502", "note")]
    assert "`4.weight` starts at 0" in found[0].message


def test_a_low_rank_adapter_that_starts_at_zero_is_healthy_though_nothing_comes_before_it():
    layers = linear("base", None), linear("down", 0.0), linear("up", 1.0, 1), linear("head", 1.0, 0, 2)
    found = measurement(*layers)
    assert rules(with_weight(with_weight(found, "up.weight", size=0.0), "base.weight", trains=False)) == []


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_what_stands_before_a_normalisation_may_have_any_scale(scale):
    # Its output is `scale` large and its gradient 1 / scale; the ReLU behind the normalisation reads size 1.
    assert rules(changed(chain(1.0, 1.0, 1.0), 0, gradient=1 / scale, rms=scale)) == []


def test_a_shared_weight_is_well_if_one_of_its_calls_is():
    shared = changed(chain(1e-5, 1.0, 1.0), 4, weights=("0.weight",))
    assert rules(shared) == []


def test_the_reference_is_the_sink_that_a_layer_leads_to():
    towers = measurement(linear("a", 1e-8), linear("b", 1e-8, 0), linear("c", 1.0), linear("d", 1.0, 2))
    assert rules(towers) == []


def test_a_head_that_gets_no_gradient_is_no_reference():
    assert rules(measurement(linear("trunk", 1.0), linear("used", 1.0, 0), linear("unused", None, 0))) == ["SC501"]


networks = st.sampled_from(
    [
        chain(*[1.0] * 6),
        chain(*powers(0.5, 30)),
        chain(*powers(3.0, 30)),
        chain(0.0, 0.0, 1.0),
        residual(0.0),
        residual(1e-9, stem=1e-5),
        measurement(linear("rnn", 1.0, steps=tuple(powers(0.5, 60))), linear("head", 1.0, 0)),
    ]
)


@given(found=networks, factor=st.floats(1e-30, 1e30))
def test_the_scale_of_the_loss_changes_no_finding(found, factor):
    layers = tuple(
        replace(
            layer,
            gradient=layer.gradient * factor,
            steps=layer.steps and tuple(step * factor for step in layer.steps),
        )
        for layer in found.layers
    )
    weights = tuple(replace(w, gradient=w.gradient * factor) for w in found.weights)
    scaled = find([replace(found, layers=layers, weights=weights)])
    assert [(f.rule, f.severity, f.layers) for f in scaled] == [(f.rule, f.severity, f.layers) for f in find([found])]


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 1e9, math.inf, math.nan, None]), min_size=1, max_size=8))
def test_any_gradients_give_findings_and_no_exception(gradients):
    assert len(find([chain(*gradients)])) <= len(RULES)


# --- SC103, SC104 -----------------------------------------------------------------------------------------------------


def recurrent(*steps, kind="LSTM"):
    return measurement(linear("rnn", 1.0, kind=kind, steps=steps), linear("head", 1.0, 0))


def test_the_gradient_vanishes_through_time_where_rounding_takes_the_first_steps():
    finding = only(recurrent(*powers(0.5, 60)))
    assert (finding.rule, finding.layers) == ("SC103", ("rnn",))
    assert finding.value == pytest.approx(0.5**54)  # the best of the first six


def test_short_sequences_and_steps_that_get_nothing_at_all_are_healthy():
    assert rules(recurrent(*powers(0.5, 20))) == []
    assert rules(recurrent(*[0.0] * 30, *[1.0] * 30)) == []  # padding in front
    assert rules(recurrent(*[1.0] * 30, *[0.0] * 30)) == []  # and behind
    assert rules(recurrent(*[0.0] * 60)) == []


def test_the_gradient_explodes_through_time():
    finding = only(recurrent(*powers(1.5, 60)))
    assert (finding.rule, finding.severity) == ("SC104", "error")
    assert rules(recurrent(*powers(1.1, 60))) == []


def loop(*gradients):
    """A layer that is called on its own output."""
    names = ["cell", *(f"cell@{i}" for i in range(2, len(gradients) + 1))]
    calls = [
        linear(name, g, *([i - 1] if i else []), weights=("cell.weight",))
        for i, (name, g) in enumerate(zip(names, gradients, strict=True))
    ]
    return measurement(*calls, linear("head", 1.0, len(calls) - 1))


def test_a_cell_in_a_loop_is_a_recurrent_layer():
    assert rules(loop(*powers(0.5, 60))) == ["SC103"]
    assert rules(loop(*powers(1.5, 60))) == ["SC104"]
    assert rules(loop(*powers(0.5, 12))) == []


def test_a_layer_that_is_called_on_many_things_is_not():
    calls = [linear(f"cell@{i}", 0.5**i, weights=("cell.weight",)) for i in range(60)]
    assert rules(measurement(*calls, linear("head", 1.0, *range(60)))) == []


# --- SC201 to SC204 ---------------------------------------------------------------------------------------------------


def test_most_neurons_saturated_is_a_finding_that_explains_the_gradient_that_vanishes_there():
    found = chain(1e-7, 1.0, 1.0)
    shut = changed(found, 1, kind="Tanh", saturated=0.9, relative_slope=0.01, gain=1e-7)
    finding = only(shut)
    assert (finding.rule, finding.layers) == ("SC201", ("1",))
    assert finding.message == (
        "90 % of the neurons of `1` are saturated (mean relative slope 0.01): they pass almost no gradient back."
    )


def test_a_gradient_that_vanishes_elsewhere_is_reported_beside_saturated_neurons():
    found = changed(chain(*powers(0.1, 9)), 1, kind="Tanh", saturated=0.9, gain=0.1)
    assert rules(found) == ["SC101", "SC201"]


@pytest.mark.parametrize("healthy", [{"saturated": 0.5}, {"rows": 31}, {"gate": True}, {"dead": 0.4}])
def test_half_of_the_neurons_few_rows_gates_and_hard_activations_are_not_called_saturated(healthy):
    shut = {"kind": "Sigmoid", "saturated": 0.8} | healthy
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, **shut)) == []


def test_a_gate_is_saturated_if_every_neuron_of_it_is():
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, kind="Sigmoid", saturated=1.0, gate=True)) == ["SC201"]


def test_a_saturated_output_is_healthy():
    found = chain(1.0, 1.0)
    assert rules(replace(found, layers=(*found.layers, activation("out", 1.0, 2, kind="Sigmoid", saturated=1.0)))) == []


@pytest.mark.parametrize(("dead", "expected"), [(0.4, None), (0.5, "note"), (0.9, "warning"), (1.0, "error")])
def test_dead_units_are_a_note_from_a_half_a_warning_from_nine_tenths_and_an_error_if_all_are(dead, expected):
    found = find([changed(chain(1.0, 1.0, 1.0), 1, dead=dead)])
    assert [(f.rule, f.severity) for f in found] == ([] if expected is None else [("SC202", expected)])


def test_a_dead_layer_explains_that_nothing_comes_before_it_and_that_all_after_it_is_the_same():
    found = changed(chain(0.0, 0.0, 1.0, 1.0), 3, dead=1.0, spread=0.0, rms=0.0)
    found = changed(changed(found, 4, spread=0.0), 5, spread=0.0)
    assert only(found).rule == "SC202"


def test_few_rows_and_gates_are_not_called_dead():
    assert find([changed(chain(1.0, 1.0, 1.0), 1, dead=1.0, rows=31)]) == ()
    assert find([changed(chain(1.0, 1.0, 1.0), 1, dead=1.0, gate=True)]) == ()


def spreads(*values, **others):
    found = chain(*[1.0] * len(values), activations=False, **others)
    return replace(found, layers=tuple(replace(x, spread=s) for x, s in zip(found.layers, values, strict=True)))


def test_samples_that_become_one_point_and_stay_it_are_a_collapse_from_its_first_layer_on():
    finding = only(spreads(0.5, 1e-4, 1e-5, 1e-5))
    assert (finding.rule, finding.layers) == ("SC203", ("2", "4"))
    assert finding.message.startswith("From `2` on, all samples are nearly the same point")


def test_a_constant_path_that_joins_another_is_no_collapse():
    assert rules(spreads(0.0, 0.5, 0.5)) == []
    assert rules(spreads(0.5, 1e-4, 0.5, 0.5)) == []
    assert rules(spreads(0.5, 1e-4, 1e-4, 0.5)) == []


def test_outputs_close_together_beside_their_mean_are_healthy_and_equal_ones_are_not():
    assert rules(spreads(0.5, 0.5, 1e-4)) == []
    assert rules(spreads(0.5, 0.5, 1e-9)) == ["SC203"]
    bias_only = with_weight(spreads(0.5, 0.5, 0.0), "4.weight", size=0.0)
    assert rules(bias_only) == []


def test_a_collapse_is_relative_to_the_inputs():
    assert rules(spreads(0.03, 0.03, 0.03, input_spread=0.03)) == []
    assert rules(spreads(1e-4, 1e-4, 1e-4, input_spread=1e-4)) == ["SC205"]
    assert rules(spreads(1e-4, 1e-8, 1e-8, input_spread=1e-4)) == ["SC203", "SC205"]


def test_inputs_that_are_all_the_same_are_not_the_fault_of_a_layer():
    finding = only(spreads(0.0, 0.0, 0.0, input_spread=0.0))
    assert (finding.rule, finding.layers) == ("SC203", ())
    assert rules(spreads(0.0, 0.0, 0.0, input_spread=0.0, samples=1)) == []


def test_attention_is_collapsed_if_all_heads_look_at_one_key():
    heads = linear("attention", 1.0, 0, kind="MultiheadAttention", entropy=0.01, sharp=1.0)
    found = measurement(linear("embed", 1.0), heads, linear("head", 1.0, 1))
    assert rules(found) == ["SC204"]
    assert rules(changed(found, 1, sharp=0.75)) == []


def test_sharp_attention_of_a_network_that_has_learned_is_a_note():
    heads = linear("attention", 1.0, 0, kind="MultiheadAttention", entropy=0.01, sharp=1.0)
    found = measurement(linear("embed", 1.0), heads, linear("head", 1.0, 1), loss=0.01, loss_function="cross_entropy")
    assert only(found).severity is Severity.NOTE
    assert rules(replace(found, loss=0.5)) == ["SC204"]
    assert rules(replace(found, loss=8.0), replace(found, loss=0.5)) == []


@pytest.mark.parametrize(("spread", "first", "broken"), [(0.01, 0.01, True), (0.03, 0.03, False), (0.01, 0.9, False)])
def test_inputs_far_from_0_are_a_finding_unless_the_first_layers_take_the_offset_away(spread, first, broken):
    found = spreads(first, first, first, input_spread=spread)
    assert rules(found) == (["SC205"] if broken else [])
    assert rules(replace(found, samples=31)) == []


@pytest.mark.parametrize("kind", ["Softplus", "softplus()", "ELU", "CELU", "SELU", "LogSigmoid", "logsigmoid()"])
def test_activations_that_work_at_their_flat_end_are_not_called_saturated(kind):
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, kind=kind, saturated=1.0)) == []


def test_most_units_of_a_hardtanh_dead_is_a_warning_as_a_saturated_tanh_is():
    half = {"dead": 0.66, "saturated": 0.66}
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, kind="Hardtanh", **half)) == ["SC202"]
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, kind="ReLU", dead=0.66)) == []


def test_what_a_shut_gate_multiplies_is_explained_by_it():
    gate = activation("gate", 1e-9, 0, kind="Sigmoid", saturated=1.0, gate=True, gain=1e-12, rms=1e-13)
    value = activation("tanh", 1e-13, 1, kind="Tanh", gate=True)
    found = measurement(linear("g", 1e-21), linear("a", 1e-13), gate, value, linear("head", 1.0, 2, 3))
    assert rules(found) == ["SC201"]


def test_an_all_dead_activation_is_named_with_few_rows_too_and_gets_the_remedy_for_dead_units():
    found = changed(chain(0.0, 1.0, 1.0), 1, dead=1.0, rows=8)
    finding = only(found)
    assert (finding.rule, finding.severity, finding.layers) == ("SC502", "error", ("1", "0"))
    assert "biases at 0" in finding.remedy


def test_a_normalisation_whose_weight_is_0_before_dead_units_is_named():
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    nn.init.zeros_(model[1].weight)
    finding = next(f for f in diagnosed(model).findings if f.rule == "SC202")
    assert finding.layers == ("2",)
    assert "`1.weight` is 0" in finding.message
    assert finding.remedy.startswith("Start the weight of a normalisation at 1")


def test_deviations_of_a_bayesian_layer_may_be_alike():
    found = changed(chain(1.0, 1.0, 1.0), 0, weights=("0.mean", "0.rho"))
    mean, rho = Weight("0.mean", (10, 10), size=1.0, gradient=1.0), Weight("0.rho", (10, 10), size=1.0, alike=True)
    both = replace(found, weights=(*found.weights[1:], mean, replace(rho, gradient=1.0)))
    assert rules(both) == []
    assert rules(with_weight(both, "0.mean", alike=True)) == ["SC503"]


def test_a_loss_that_is_not_finite_although_all_layers_are_says_to_look_at_the_targets():
    assert "targets" in only(chain(1.0, 1.0, loss=math.nan, loss_function="cross_entropy")).remedy


# --- SC301, SC302 -----------------------------------------------------------------------------------------------------


def training(*updates, **weight):
    """A measurement for each update of the first weight; the second one's are healthy."""
    found = []
    for step, update in enumerate(updates):
        one = with_weight(chain(1.0, 1.0, step=step), "0.weight", update=update, **weight)
        found.append(with_weight(one, "2.weight", update=1e-3, size=1.0 + step))
    return found


def test_updates_that_rounding_takes_are_too_small():
    finding = only(*training(1e-9, 1e-8, 1e-8))
    assert (finding.rule, finding.layers, finding.value) == ("SC301", ("0.weight",), 1e-8)


@pytest.mark.parametrize(
    "updates", [(0.0, 1e-9, 1e-5), (1e-3, 1e-9, 0.0), (1e-9, 1e-9)], ids=["warm-up", "decay", "too few"]
)
def test_warm_up_decay_and_two_measurements_are_healthy(updates):
    assert rules(*training(*updates)) == []


def test_beside_a_vanished_gradient_weights_that_all_stand_still_are_said_to():
    lost = [chain(1e-9, 1.0, 1.0, step=i) for i in range(3)]
    still = [replace(m, weights=tuple(replace(w, update=0.0) for w in m.weights)) for m in lost]
    assert rules(*still) == ["SC101", "SC301"]
    assert "No measured step changed any weight" in find(still)[1].message
    moving = [with_weight(with_weight(m, "2.weight", update=1e-3), "4.weight", update=1e-3) for m in still]
    assert rules(*moving) == ["SC101"]


def test_a_weight_that_no_optimizer_has_is_too_small_an_update_unless_its_size_changes():
    assert rules(*training(None, None, None)) == ["SC301"]
    of_another = [with_weight(m, "0.weight", size=1.0 + i) for i, m in enumerate(training(None, None, None))]
    assert rules(*of_another) == []


@pytest.mark.parametrize("weight", [{"trains": False}, {"gradient": 0.0}, {"shape": (10,)}, {"size": 0.0}])
def test_frozen_weights_those_without_gradient_biases_and_those_that_start_at_0_are_not_judged(weight):
    assert {"SC301", "SC302"}.isdisjoint(rules(*training(0.0, 0.0, 0.0, **weight)))
    if "gradient" not in weight:
        assert {"SC301", "SC302"}.isdisjoint(rules(*training(9.0, 9.0, 9.0, **weight)))


@pytest.mark.parametrize(("size", "expected"), [(0.09, None), (0.11, "warning"), (1.1, "error")])
def test_updates_of_more_than_a_tenth_are_too_large(size, expected):
    found = find(training(1e-3, size, size, size, 1e-3))
    assert [(f.rule, f.severity) for f in found] == ([] if expected is None else [("SC302", expected)])


# --- SC401 to SC403 ---------------------------------------------------------------------------------------------------


def test_the_first_layer_that_gives_what_is_not_finite_is_named_and_nothing_that_follows_from_it():
    found = chain(*[math.nan] * 6, loss=math.nan)
    for at in range(4, 11):
        found = changed(found, at, nonfinite=3, spread=math.nan, rms=math.nan)
    finding = only(found)
    assert (finding.rule, finding.severity, finding.layers) == ("SC401", "error", ("4",))
    assert finding.message.startswith("`4` is the first layer whose output has inf or NaN (3 numbers).")


def test_inputs_come_before_weights_weights_before_layers_and_layers_before_the_loss():
    found = chain(1.0, 1.0, loss=math.inf, loss_function="mse_loss")
    assert only(found).message.startswith("The loss (mse_loss) is inf")
    found = changed(found, 0, nonfinite=1)
    assert only(found).layers == ("0",)
    found = with_weight(found, "0.weight", nonfinite=2)
    assert only(found).layers == ("0.weight",)
    assert "inputs" in only(replace(found, input_nonfinite=1)).message


def test_of_gradients_the_first_on_the_way_back_is_named():
    found = changed(changed(chain(1.0, 1.0, 1.0), 0, gradient=math.nan), 2, gradient=math.inf, nonfinite_gradient=4)
    assert only(found).layers == ("2",)


def test_a_training_is_asked_when_it_began():
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


def test_half_precision_is_close_to_its_end_from_half_of_it_on():
    half = changed(chain(1.0, 1.0, 1.0), 2, dtype="float16", largest=40_000.0)
    assert only(half).rule == "SC402"
    assert find([changed(half, 2, largest=30_000.0)]) == ()
    assert find([changed(half, 2, dtype="bfloat16")]) == ()


def test_a_gradient_that_ends_at_once_in_float16_has_underflown():
    found = chain(0.0, 0.0, 1e-6, 1e-5)
    half = replace(found, layers=tuple(replace(x, dtype="float16") for x in found.layers))
    assert rules(half) == ["SC403"]
    assert rules(found) == ["SC502"]
    assert rules(replace(half, step=3)) == ["SC403"]  # exactly 0, whatever the loss was multiplied by


def test_a_gradient_that_fades_before_it_underflows_has_vanished():
    found = chain(0.0, 1e-4, 1e-2, 1.0)
    assert rules(replace(found, layers=tuple(replace(x, dtype="float16") for x in found.layers))) == ["SC101"]


def test_an_unscaled_gradient_of_a_scaled_loss_may_be_below_float16():
    found = chain(1e-9, 1e-9, 1e-9, step=5)
    assert rules(replace(found, layers=tuple(replace(x, dtype="float16") for x in found.layers))) == []


# --- SC501 to SC503, SC601 --------------------------------------------------------------------------------------------


def test_a_layer_without_a_gradient_before_one_with_is_behind_a_cut():
    finding = only(chain(None, 1.0, 1.0))
    assert (finding.rule, finding.severity, finding.layers) == ("SC501", "warning", ("0.weight",))


def test_a_cut_is_seen_also_where_the_tensor_was_rebuilt_and_its_sources_are_not_known():
    assert rules(measurement(linear("a", None), linear("b", 1.0), linear("c", 1.0, 1))) == ["SC501"]


def test_a_head_that_the_loss_does_not_read_and_parameters_that_nothing_reads_are_warnings():
    found = measurement(linear("trunk", 1.0), linear("used", 1.0, 0), linear("unused", None, 0))
    assert only(found).severity is Severity.WARNING
    assert "the loss does not depend on" in only(found).message
    idle = replace(chain(1.0), weights=(Weight("0.weight", (2, 2), gradient=1.0), Weight("idle", (2, 2), used=False)))
    assert "the forward pass does not use" in only(idle).message


def experts(*gradients, rows=(4, 4, 4, 4)):
    """A stem, experts beside each other, and a head."""
    own = [linear(f"experts.{i}", g, shape=(n, 10)) for i, (g, n) in enumerate(zip(gradients, rows, strict=True)) if n]
    found = measurement(*own, linear("head", 1.0, *range(len(own))))
    idle = tuple(Weight(f"experts.{i}.weight", (10, 10), size=1.0, used=False) for i, n in enumerate(rows) if not n)
    return replace(found, weights=(*found.weights, *idle))


def test_an_expert_that_no_row_was_sent_to_is_a_note_and_after_three_measurements_a_warning():
    found = experts(1.0, 1.0, 1.0, None, rows=(4, 4, 4, 0))
    assert [(f.rule, f.severity, f.layers) for f in find([found])] == [("SC501", "note", ("experts.3.weight",))]
    assert only(found, found, found).severity is Severity.WARNING


def test_a_lonely_part_and_one_of_another_shape_are_warnings_also_beside_experts():
    found = experts(1.0, 1.0, 1.0, None, rows=(4, 4, 4, 0))
    other = Weight("experts.4.weight", (20, 10), size=1.0, used=False)
    both = only(replace(found, weights=(*found.weights, other)))
    assert (both.severity, both.layers) == (Severity.WARNING, ("experts.4.weight",))
    assert rules(replace(found, weights=(*found.weights, replace(other, name="idle", shape=(10, 10))))) == ["SC501"]


def test_the_gradient_of_an_expert_that_few_rows_were_sent_to_has_not_vanished():
    assert rules(experts(1.0, 1.0, 1.0, 0.7e-4, rows=(50, 50, 27, 1))) == []
    assert rules(experts(1.0, 1.0, 1.0, 0.7e-4, rows=(32, 32, 32, 32))) == ["SC101"]


def test_no_gradient_at_all_is_an_error_and_frozen_parameters_are_none():
    assert only(chain(None, None)).severity is Severity.ERROR
    frozen = with_weight(chain(None, 1.0), "0.weight", trains=False)
    assert find([frozen]) == ()


def test_a_parameter_that_had_a_gradient_earlier_in_training_is_well():
    assert find([chain(1.0, 1.0), chain(None, 1.0)]) == ()


def test_a_gradient_that_becomes_exactly_0_at_once_is_an_error_that_names_the_place():
    finding = only(chain(0.0, 0.0, 1.0, 1.0))
    assert (finding.rule, finding.severity, finding.layers) == ("SC502", "error", ("2", "0"))
    assert "between `2` and `4`" in finding.message


def test_a_loss_that_gives_no_gradient_is_an_error_unless_it_is_0():
    assert only(chain(0.0, 0.0)).severity is Severity.ERROR
    assert only(chain(0.0, 0.0, loss=0.0)).severity is Severity.NOTE


def test_weights_that_are_0_and_get_no_gradient_stay_so():
    found = residual(0.0)
    for name in ("1.up.weight", "1.down.weight"):
        found = with_weight(found, name, size=0.0, gradient=0.0)
    finding = only(found)
    assert (finding.severity, finding.layers) == ("warning", ("1.up.weight", "1.down.weight"))


def test_a_token_that_starts_at_0_before_a_head_that_does_is_healthy_at_the_first_step():
    found = with_weight(chain(0.0, 0.0, 1.0), "0.weight", size=0.0)
    assert rules(with_weight(found, "4.weight", size=0.0)) == []


def test_a_part_that_a_batch_does_not_concern_is_a_note():
    parts = measurement(linear("stem", 1.0), linear("expert", 0.0, 0), linear("head", 1.0, 0, 1))
    assert only(parts).severity is Severity.NOTE


def test_hidden_neurons_that_are_all_alike_are_a_finding_that_explains_what_else_is_wrong():
    found = with_weight(chain(1e-9, 1e-9, 1.0), "0.weight", alike=True)
    assert rules(found) == ["SC503"]


@pytest.mark.parametrize(
    ("name", "healthy"),
    [
        ("4.weight", {}),
        ("0.weight", {"trains": False}),
        ("0.weight", {"shape": (1, 10)}),
        ("0.weight", {"shape": (10,)}),
        ("2.weight", {"shape": (10, 1, 3, 3)}),
    ],
    ids=["output", "frozen", "one row", "norm", "depthwise"],
)
def test_rows_may_be_alike_where_they_read_different_things_or_are_not_learned(name, healthy):
    assert rules(with_weight(chain(1.0, 1.0, 1.0), name, alike=True, **healthy)) == []


def test_embeddings_may_start_alike():
    found = changed(with_weight(chain(1.0, 1.0), "0.weight", alike=True), 0, kind="Embedding")
    assert rules(found) == []


@pytest.mark.parametrize(
    ("function", "kind", "wrong"),
    [
        ("cross_entropy", "Softmax", True),
        ("cross_entropy", "softmax()", True),
        ("cross_entropy", "Sigmoid", True),
        ("cross_entropy", "ReLU", True),
        ("cross_entropy", "Tanh", False),
        ("binary_cross_entropy_with_logits", "sigmoid()", True),
        ("binary_cross_entropy", "Sigmoid", False),
        ("nll_loss", "Softmax", True),
        ("nll_loss", "LogSoftmax", False),
        ("mse_loss", "Sigmoid", False),
        (None, "Softmax", False),
    ],
)
def test_a_loss_must_get_what_it_expects(function, kind, wrong):
    found = measurement(linear("0", 1.0), activation("1", 1.0, 0, kind=kind), loss_function=function, loss_reads=1)
    assert rules(found) == (["SC601"] if wrong else [])


def test_logits_are_right_for_cross_entropy_and_wrong_for_nll_loss():
    assert rules(chain(1.0, loss_function="cross_entropy", loss_reads=0)) == []
    assert rules(chain(1.0, loss_function="nll_loss", loss_reads=0)) == ["SC601"]
    assert rules(chain(1.0, loss_function="nll_loss", loss_reads=None)) == []


# --- words ------------------------------------------------------------------------------------------------------------


def test_names_are_listed_in_full_as_a_range_or_by_the_first_three():
    assert listed(["a"]) == "`a`"
    assert listed(["a", "b", "c"]) == "`a`, `b` and `c`"
    assert listed(["d", "b", "a", "c"], ["a", "b", "c", "d", "e"]) == "`a` to `d` (4 of 5 layers)"
    assert listed(["e", "a", "b", "c"], ["a", "b", "c", "d", "e"]) == "`e`, `a`, `b` and 1 more"
    assert listed([""]) == "the model itself"


def test_a_share_is_0_or_100_percent_only_if_it_is():
    assert [share(v) for v in (0, 0.001, 0.5, 0.999, 1)] == ["0 %", "less than 1 %", "50 %", "more than 99 %", "100 %"]


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def docs(root):
    """The script that writes docs/rules.md."""
    spec = importlib.util.spec_from_file_location("rules_page", root / "docs" / "rules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_docs_rules_py_writes(root, docs):
    written = (root / "docs" / "rules.md").read_text(encoding="utf-8")
    assert written == docs.page(), "run .venv/bin/python docs/rules.py"
    assert re.findall(r'^<a id="(sc\d+)"></a>$', written, flags=re.MULTILINE) == [i.lower() for i in IDS]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_example_of_a_rule_is_found_by_it_and_by_no_other_in_three_sentences_at_most(rule, docs):
    (preamble,) = re.findall(r"```python\n(import torch\n.+?)# \.\.\. an example", docs.page(), flags=re.DOTALL)
    scope = {}
    exec(preamble + docs.EXAMPLES[rule.id], scope)
    diagnosis = scope.get("diagnosis") or sc.diagnose(*(scope[n] for n in ("model", "inputs", "targets", "loss_fn")))
    (finding,) = [f for f in diagnosis.findings if f.severity is not Severity.NOTE]
    assert finding.rule == rule.id
    assert len(re.findall(r"\.(?= |$)", f"{finding.message} {finding.remedy}")) <= 3


# --- real networks ----------------------------------------------------------------------------------------------------


def mlp(kind, depth, width=64, norm=None):
    sizes = [64, *[width] * depth]
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), *([norm(fan_out)] if norm else []), kind()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def diagnosed(model, loss=functional.cross_entropy, samples=128, shape=(64,), dtype=torch.float32):
    inputs, targets = torch.randn(samples, *shape, dtype=dtype), torch.randint(10, (samples,))
    return sc.diagnose(model.to(dtype), inputs, targets, loss)


def loud(model, **how):
    return [f.rule for f in diagnosed(model, **how).findings if f.severity is not Severity.NOTE]


@pytest.mark.parametrize(
    ("kind", "well", "ill"), [(nn.Sigmoid, 4, 5), (nn.ReLU, 9, 12), (nn.Tanh, 14, 18)], ids=["sigmoid", "ReLU", "tanh"]
)
def test_default_weights_vanish_at_the_depths_that_the_page_names(kind, well, ill):
    for seed in range(5):
        torch.manual_seed(seed)
        assert loud(mlp(kind, well)) == []
        assert loud(mlp(kind, ill)) == ["SC101"]


def test_twenty_layers_with_batch_norm_are_healthy_and_fifty_explode():
    for seed in range(3):
        torch.manual_seed(seed)
        assert loud(mlp(nn.ReLU, 20, norm=nn.BatchNorm1d)) == []
        assert loud(mlp(nn.ReLU, 50, norm=nn.BatchNorm1d)) == ["SC102"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_healthy_network_is_healthy_in_every_dtype(dtype):
    assert loud(mlp(nn.ReLU, 3), dtype=dtype) == []


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_a_healthy_network_is_healthy_at_any_scale_of_the_loss(factor):
    assert (
        loud(mlp(nn.ReLU, 3), loss=lambda outputs, targets: factor * functional.cross_entropy(outputs, targets)) == []
    )


@pytest.mark.parametrize("samples", [2, 8, 4096])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.GELU])
def test_a_healthy_network_is_healthy_with_any_batch(kind, samples):
    assert loud(mlp(kind, 3), samples=samples) == []


def test_inputs_of_any_scale_before_a_batch_norm_are_healthy():
    model = mlp(nn.ReLU, 2, norm=nn.BatchNorm1d)
    with torch.no_grad():
        model[0].weight.mul_(1e6)
        model[3].weight.mul_(1e-4)
        model[1].eps = model[4].eps = 1e-12
    assert loud(model) == []


def test_a_thousand_residual_blocks_are_judged_at_once():
    """Every block reads all blocks before it: a million edges."""
    assert rules(residual(1.0, blocks=1000)) == []
