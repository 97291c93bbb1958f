"""US5 and US6: structure and the loss, on measurements that are made up."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import activation, chain, linear, loud, measurement, only, residual, rules, with_weight

import unstuck
from unstuck.findings import Severity
from unstuck.measure.measurement import Weight
from unstuck.rules import find


def test_a_layer_without_a_gradient_before_one_with_a_gradient_is_cut_off():
    finding = only(chain(None, 1.0, 1.0))
    assert (finding.rule, finding.severity, finding.layers) == ("US501", "warning", ("0.weight",))


def test_a_cut_is_found_if_the_tensor_was_rebuilt():
    assert rules(measurement(linear("a", None), linear("b", 1.0), linear("c", 1.0, 1))) == ["US501"]


def test_unused_heads_and_unused_parameters_are_warnings():
    found = measurement(linear("trunk", 1.0), linear("used", 1.0, 0), linear("unused", None, 0))
    assert only(found).severity is Severity.WARNING
    assert "the loss does not depend on" in only(found).message
    idle = replace(chain(1.0), weights=(Weight("0.weight", (2, 2), gradient=1.0), Weight("idle", (2, 2), used=False)))
    assert only(idle).severity is Severity.WARNING


class Auxiliary(nn.Module):
    """A network that asks for its mode, and uses a second layer, without a gradient, if a function says so."""

    def __init__(self, use):
        super().__init__()
        self.trunk, self.head, self.second, self.use = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 8), use

    def forward(self, x):
        h = functional.dropout(self.trunk(x), 0.1, self.training).relu()
        if self.use(self):
            h = h + 0 * self.second(h).detach()
        return self.head(h)


@pytest.mark.parametrize(
    ("model", "training", "severity"),
    [
        (Auxiliary(lambda model: model.training), False, "note"),
        (Auxiliary(lambda model: False), True, "warning"),
        (Auxiliary(lambda model: True), False, "warning"),
    ],
    ids=["training only", "never", "always"],
)
def test_parts_that_may_run_in_training_mode_only_are_a_note(model, training, severity):
    (finding,) = (
        f for f in unstuck.diagnose(model, torch.randn(64, 8), training=training).findings if f.rule == "US501"
    )
    assert (finding.severity, finding.layers[0]) == (severity, "second.weight")


def test_parts_that_no_mode_uses_are_a_warning():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    model[2].register_module("spare", nn.Linear(8, 8))
    (finding,) = unstuck.diagnose(model, torch.randn(64, 8)).findings
    assert (finding.rule, finding.severity, finding.layers[0]) == ("US501", "warning", "2.spare.weight")


@pytest.mark.parametrize(("shape", "severity"), [((1, 1, 8), "note"), ((8,), "note"), ((8, 2), "warning")])
def test_an_unused_vector_is_a_note_because_it_may_be_the_embedding_of_a_mask(shape, severity):
    used = Weight("0.weight", (2, 2), gradient=1.0)
    assert only(replace(chain(1.0), weights=(used, Weight("mask", shape, used=False)))).severity == severity


@pytest.mark.parametrize(("width", "severity"), [(2, "note"), (20, "warning")])
def test_a_small_output_aside_is_a_note_because_it_may_be_a_pooler(width, severity):
    found = measurement(linear("trunk", 1.0), linear("used", 1.0, 0), linear("pooler", None, 0))
    sizes = {"trunk.weight": (10, 10), "used.weight": (10, 10), "pooler.weight": (width, 2)}
    finding = only(replace(found, weights=tuple(replace(w, shape=sizes[w.name]) for w in found.weights)))
    assert (finding.rule, finding.severity) == ("US501", severity)


@pytest.mark.parametrize(("width", "severity"), [(1, "note"), (20, "warning")])
def test_a_small_matrix_that_the_forward_pass_does_not_use_is_a_note(width, severity):
    used = Weight("0.weight", (20, 20), gradient=1.0)
    idle = Weight("segments", (2, width), used=False)
    assert only(replace(chain(1.0), weights=(used, idle))).severity == severity


def test_an_empty_weight_may_have_no_gradient():
    found = chain(1.0, 1.0)
    assert rules(with_weight(found, "0.weight", shape=(10, 0), size=0.0, gradient=0.0)) == []


def experts(*gradients, rows=(4, 4, 4, 4)):
    """A stem, experts beside each other, and a head."""
    own = [linear(f"experts.{i}", g, shape=(n, 10)) for i, (g, n) in enumerate(zip(gradients, rows, strict=True)) if n]
    found = measurement(*own, linear("head", 1.0, *range(len(own))))
    idle = tuple(Weight(f"experts.{i}.weight", (10, 10), size=1.0, used=False) for i, n in enumerate(rows) if not n)
    return replace(found, weights=(*found.weights, *idle))


def test_an_idle_expert_is_a_note_and_after_three_measurements_a_warning():
    found = experts(1.0, 1.0, 1.0, None, rows=(4, 4, 4, 0))
    assert [(f.rule, f.severity, f.layers) for f in find([found])] == [("US501", "note", ("experts.3.weight",))]
    assert only(found, found, found).severity is Severity.WARNING


def test_parts_of_another_name_or_shape_beside_idle_experts_are_warnings():
    found = experts(1.0, 1.0, 1.0, None, rows=(4, 4, 4, 0))
    other = Weight("experts.4.weight", (20, 10), size=1.0, used=False)
    both = only(replace(found, weights=(*found.weights, other)))
    assert (both.severity, both.layers) == (Severity.WARNING, ("experts.4.weight",))
    assert rules(replace(found, weights=(*found.weights, replace(other, name="idle", shape=(10, 10))))) == ["US501"]


def test_no_gradient_at_all_is_an_error_and_frozen_parameters_are_not_named():
    assert only(chain(None, None)).severity is Severity.ERROR
    frozen = with_weight(chain(None, 1.0), "0.weight", trains=False)
    assert [f.rule for f in find([frozen])] == ["US505"]


def test_a_parameter_with_an_earlier_gradient_is_healthy():
    assert find([chain(1.0, 1.0), chain(None, 1.0)]) == ()


def test_a_gradient_that_becomes_0_between_two_layers_is_an_error_with_their_names():
    finding = only(chain(0.0, 0.0, 1.0, 1.0))
    assert (finding.rule, finding.severity, finding.layers) == ("US502", "error", ("2", "0"))
    assert "between `2` and `4`" in finding.message


def test_a_loss_with_gradient_0_is_an_error_unless_it_is_0():
    assert only(chain(0.0, 0.0)).severity is Severity.ERROR
    assert only(chain(0.0, 0.0, loss=0.0)).severity is Severity.NOTE


def test_weights_that_are_0_with_a_gradient_of_0_are_found():
    found = residual(0.0)
    for name in ("1.up.weight", "1.down.weight"):
        found = with_weight(found, name, size=0.0, gradient=0.0)
    finding = only(found)
    assert (finding.severity, finding.layers) == ("warning", ("1.up.weight", "1.down.weight"))


def test_a_zero_token_before_a_zero_head_is_healthy_at_the_first_step():
    found = with_weight(chain(0.0, 0.0, 1.0), "0.weight", size=0.0)
    assert rules(with_weight(found, "4.weight", size=0.0)) == []


def test_a_part_that_the_batch_does_not_use_is_a_note():
    parts = measurement(linear("stem", 1.0), linear("expert", 0.0, 0), linear("head", 1.0, 0, 1))
    assert only(parts).severity is Severity.NOTE


@pytest.mark.parametrize(
    ("function", "kind", "wrong"),
    [
        ("cross_entropy", "Softmax", True),
        ("cross_entropy", "softmax()", True),
        ("cross_entropy", "Sigmoid", True),
        ("cross_entropy", "ReLU", True),
        ("cross_entropy", "Tanh", True),
        ("binary_cross_entropy_with_logits", "sigmoid()", True),
        ("binary_cross_entropy", "Sigmoid", False),
        ("nll_loss", "Softmax", True),
        ("nll_loss", "LogSoftmax", False),
        ("mse_loss", "Sigmoid", False),
        (None, "Softmax", False),
    ],
)
def test_a_loss_must_read_the_expected_numbers(function, kind, wrong):
    found = measurement(linear("0", 1.0), activation("1", 1.0, 0, kind=kind), loss_function=function, loss_reads=1)
    assert rules(found) == (["US601"] if wrong else [])


def test_logits_fit_cross_entropy_and_not_nll_loss():
    assert rules(chain(1.0, loss_function="cross_entropy", loss_reads=0)) == []
    assert rules(chain(1.0, loss_function="nll_loss", loss_reads=0)) == ["US601"]
    assert rules(chain(1.0, loss_function="nll_loss", loss_reads=None)) == []


def test_a_normalisation_of_the_inputs_is_no_weight_of_the_next_layer():
    model = nn.Sequential(nn.LayerNorm([6, 8]), nn.Flatten(), nn.Linear(48, 3))
    assert unstuck.diagnose(model, torch.randn(64, 6, 8), torch.randn(64, 3), nn.functional.mse_loss).findings == ()


class Remade(nn.Module):
    """Its second layer is another one in each pass, in the first one, or never."""

    def __init__(self, when):
        super().__init__()
        self.first, self.when = nn.Linear(8, 8), when

    def forward(self, x):
        if self.when == "always" or not hasattr(self, "second"):
            self.second = nn.Linear(8, 4)
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize(("when", "expected"), [("always", True), ("first", False)])
def test_layers_that_each_forward_pass_makes_anew_are_not_registered(when, expected):
    model = Remade(when)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(64, 8)).square().mean().backward()
            optimizer.step()
    assert ("US504" in loud(monitor.diagnosis())) == expected


class OneKey(nn.Module):
    """An attention with biases of places, which sees a single key."""

    def __init__(self, keys):
        super().__init__()
        self.keys, self.biases = keys, nn.Parameter(torch.zeros(3, keys))
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k[:, : self.keys].mT + self.biases).softmax(-1) @ v[:, : self.keys]


def test_biases_of_an_attention_of_one_key_have_no_gradient_and_are_no_mistake():
    for keys in (1, 2):
        model = nn.Sequential(OneKey(keys), nn.Flatten(), nn.Linear(24, 2))
        found = unstuck.diagnose(model, torch.randn(32, 3, 8), torch.arange(32) % 2, nn.functional.cross_entropy)
        assert "US502" not in loud(found)
