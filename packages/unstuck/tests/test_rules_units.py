"""US2: neurons, samples and inputs, on measurements that are made up."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from unstuck_support.layers import activation, chain, linear, measurement, only, powers, rules, with_weight
from unstuck_support.measurements import changed

import unstuck
from unstuck.measure.measurement import Weight
from unstuck.rules import Evidence, find
from unstuck.rules.attention import attending_to_one


def test_saturated_neurons_explain_the_gradient_that_vanishes_there():
    found = chain(1e-7, 1.0, 1.0)
    shut = changed(found, 1, kind="Tanh", saturated=0.9, relative_slope=0.01, gain=1e-7)
    finding = only(shut)
    assert (finding.rule, finding.layers) == ("US201", ("1",))
    assert finding.message == "90 % of the neurons of `1` are saturated: they pass almost no gradient back."


def test_saturated_neurons_do_not_explain_a_gradient_that_vanishes_elsewhere():
    found = changed(chain(*powers(0.1, 9)), 1, kind="Tanh", saturated=0.9, gain=0.1)
    assert rules(found) == ["US101", "US201"]


@pytest.mark.parametrize("healthy", [{"saturated": 0.5}, {"rows": 31}, {"gate": True}, {"dead": 0.4}])
def test_half_of_the_neurons_few_rows_gates_and_hard_activations_are_not_saturated(healthy):
    shut = {"kind": "Sigmoid", "saturated": 0.8} | healthy
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, **shut)) == []


def test_a_gate_is_saturated_if_every_neuron_of_it_is():
    shut = {"kind": "Sigmoid", "saturated": 1.0, "gate": True}
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, **shut, rms=0.01)) == ["US201"]
    assert rules(changed(chain(1.0, 1.0, 1.0), 1, **shut, rms=0.99)) == []  # it is open


def test_a_sigmoid_inside_a_focal_loss_is_no_gate_of_the_network():
    found = chain(1.0, 1.0, 1.0)
    inside = activation("loss.sigmoid", 1.0, 2, kind="Sigmoid", saturated=1.0, gate=True)
    assert rules(replace(found, layers=(*found.layers, inside))) == []


def test_a_saturated_output_is_healthy():
    found = chain(1.0, 1.0)
    assert rules(replace(found, layers=(*found.layers, activation("out", 1.0, 2, kind="Sigmoid", saturated=1.0)))) == []


@pytest.mark.parametrize(("dead", "expected"), [(0.4, None), (0.5, "note"), (0.9, "warning"), (1.0, "error")])
def test_dead_units_are_a_note_from_50_percent_a_warning_from_90_and_an_error_at_100(dead, expected):
    found = find([changed(chain(1.0, 1.0, 1.0), 1, dead=dead)])
    assert [(f.rule, f.severity) for f in found] == ([] if expected is None else [("US202", expected)])


def test_a_dead_layer_explains_the_zero_gradient_before_it_and_the_collapse_after_it():
    found = changed(chain(0.0, 0.0, 1.0, 1.0), 3, dead=1.0, spread=0.0, rms=0.0)
    found = changed(changed(found, 4, spread=0.0), 5, spread=0.0)
    assert only(found).rule == "US202"


def test_few_rows_and_gates_are_not_dead():
    assert find([changed(chain(1.0, 1.0, 1.0), 1, dead=1.0, rows=31)]) == ()
    assert find([changed(chain(1.0, 1.0, 1.0), 1, dead=1.0, gate=True)]) == ()


def spreads(*values, **others):
    found = chain(*[1.0] * len(values), activations=False, **others)
    return replace(found, layers=tuple(replace(x, spread=s) for x, s in zip(found.layers, values, strict=True)))


def test_a_collapse_is_named_from_its_first_layer_on():
    finding = only(spreads(0.5, 1e-4, 1e-5, 1e-5))
    assert (finding.rule, finding.layers) == ("US203", ("2", "4"))
    assert finding.message.startswith("From `2` on, all samples are nearly the same point")


def test_a_constant_path_that_joins_another_is_not_a_collapse():
    assert rules(spreads(0.0, 0.5, 0.5)) == []
    assert rules(spreads(0.5, 1e-4, 0.5, 0.5)) == []
    assert rules(spreads(0.5, 1e-4, 1e-4, 0.5)) == []


def test_a_class_token_that_reads_the_samples_through_a_small_scale_is_not_a_collapse():
    found = spreads(0.5, 1e-5, 1e-5, 1e-5)
    gamma = Weight("gamma", (100,), size=1e-4, gradient=1.0)
    scaled = replace(changed(found, 0, scaled_by=("gamma",)), weights=(*found.weights, gamma))
    assert rules(scaled) == []
    assert rules(replace(scaled, weights=(*found.weights, replace(gamma, size=10.0)))) == ["US203"]


def test_outputs_with_little_variation_are_healthy_and_equal_outputs_are_not():
    assert rules(spreads(0.5, 0.5, 1e-4)) == []
    assert rules(spreads(0.5, 0.5, 1e-9)) == ["US203"]
    bias_only = with_weight(spreads(0.5, 0.5, 0.0), "4.weight", size=0.0)
    assert rules(bias_only) == []


def test_a_collapse_is_relative_to_the_inputs():
    assert rules(spreads(0.03, 0.03, 0.03, input_spread=0.03)) == []
    assert rules(spreads(1e-4, 1e-4, 1e-4, input_spread=1e-4)) == []
    assert rules(spreads(1e-4, 1e-8, 1e-8, input_spread=1e-4)) == ["US203"]


def test_identical_inputs_name_no_layer():
    finding = only(spreads(0.0, 0.0, 0.0, input_spread=0.0))
    assert (finding.rule, finding.layers) == ("US203", ())
    assert rules(spreads(0.0, 0.0, 0.0, input_spread=0.0, samples=1)) == []


def test_attention_is_collapsed_if_doubled_scores_hardly_change_it():
    heads = linear("attention", 1.0, 0, kind="MultiheadAttention")
    found = measurement(linear("embed", 1.0), heads, linear("head", 1.0, 1))

    def attending(share, at_first=0.0):
        attention = {"module": "attention", "number": 0, "weighted": True, "share": share, "at_first": at_first}
        return replace(found, answers={"attentions": [attention]})

    assert rules(attending(0.98)) == ["US204"]
    assert rules(attending(0.95)) == []
    assert attending_to_one(Evidence([attending(0.98)]), newly=True) == ["attention"]
    assert attending_to_one(Evidence([attending(0.99, at_first=0.98)]), newly=True) == []


def test_outputs_that_a_loss_of_its_own_draws_together_while_it_stands_still():
    def watched(spread, losses, size=1.0):
        first = chain(1.0, 1.0)
        layers = (*first.layers[:-1], replace(first.layers[-1], spread=spread, rms=size))
        found = [replace(first, loss=losses[0]), *[replace(first, layers=layers, loss=loss) for loss in losses[1:]]]
        return [replace(measurement, step=2 * i) for i, measurement in enumerate(found)]

    flat, falling = [1.0] * 6, [1.0 * 0.5**i for i in range(6)]
    assert rules(*watched(0.1, flat)) == ["US203"]
    assert rules(*watched(0.1, flat)[:5]) == [], "too few"
    assert rules(*[replace(m, step=i) for i, m in enumerate(watched(0.1, flat))]) == [], "too few steps"
    assert rules(*watched(0.1, falling)) == rules(*watched(0.9, flat)) == []
    assert rules(*watched(0.1, flat, size=1e3)) == [], "they differ more than at first, beside a large mean"


def test_tokens_that_are_the_same_for_all_samples_are_the_cause_of_dead_units():
    model = nn.Sequential(nn.Embedding(9, 16), nn.Flatten(), nn.ReLU(), nn.Linear(64, 3))
    nn.init.constant_(model[0].weight, -1.0)
    (finding,) = unstuck.diagnose(model, torch.ones(64, 4, dtype=torch.long)).findings
    assert (finding.rule, finding.layers) == ("US203", ())
    assert [f.rule for f in unstuck.diagnose(model, torch.randint(9, (64, 4))).findings] == ["US202"]


@pytest.mark.parametrize(
    ("spreads", "expected"),
    [
        ([0.9, 0.3, *[0.0] * 4, 0.2], ["US203"]),
        ([0.9, 0.0, 0.0, *[0.4] * 4], []),
        ([0.9, *[0.1] * 6], []),
        ([0.0] * 7, []),
    ],
    ids=["one code", "for a while", "few codes", "learned query"],
)
def test_a_codebook_of_which_all_samples_get_the_same_code(spreads, expected):
    rest = linear("0", 1.0), activation("1", 1.0, 1), linear("2", 1.0, 0, 2)
    books = [replace(linear("codes", 1.0), kind="Embedding", spread=spread) for spread in spreads]
    assert rules(*(measurement(book, *rest) for book in books)) == expected
