"""US602 to US605, US607: outputs and targets of the loss, on measurements that are made up and on real losses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import activation, chain, linear, loud, measurement, only, rules, with_weight

import unstuck
from unstuck.findings import Severity
from unstuck.measure.measurement import Comparison


def compared(*comparisons, kind="Linear"):
    out = linear("1", 1.0, 0) if kind == "Linear" else activation("1", 1.0, 0, kind=kind)
    return measurement(linear("0", 1.0), out, comparisons=comparisons)


def of(function="mse_loss", low=-1.0, high=1.0, shape=(64, 1), **others):
    sizes = {"target_rms": max(abs(low), abs(high)), "output_rms": 0.3}
    return Comparison(function, 1, shape, others.pop("target_shape", shape), low=low, high=high, **sizes | others)


@pytest.mark.parametrize(("shape", "target_shape"), [((64, 1), (64,)), ((64,), (64, 1)), ((8, 1, 5, 5), (8, 5, 5))])
def test_a_number_of_dimensions_that_differs_broadcasts(shape, target_shape):
    assert rules(compared(of(shape=shape, target_shape=target_shape))) == ["US602"]


@pytest.mark.parametrize(
    ("shape", "target_shape"),
    [((64, 1), (64, 1)), ((64,), ()), ((64, 3), (3,)), ((8, 1, 5), (8, 5, 1)), ((8,), (9, 1, 2))],
)
def test_one_target_for_all_and_pairs_on_purpose_do_not(shape, target_shape):
    assert rules(compared(of(shape=shape, target_shape=target_shape))) == []


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("Sigmoid", 0, 5, ["US603"]),
        ("Sigmoid", -1, 1, ["US603"]),
        ("Sigmoid", 0, 1, []),
        ("Sigmoid", -0.01, 1.01, []),
        ("Tanh", -1, 1, []),
        ("Tanh", 0, 3, ["US603"]),
        ("ReLU", 0, 9, []),
        ("ReLU", -3, 9, ["US603"]),
        ("Linear", -3, 9, []),
        ("Sigmoid", 0, 255, ["US603"]),
    ],
)
def test_targets_have_to_be_within_the_outputs_of_the_last_activation(kind, low, high, expected):
    assert rules(compared(of(low=low, high=high), kind=kind)) == expected


class Shifted(nn.Module):
    """A ReLU and an offset."""

    def forward(self, x):
        return torch.relu(x) - 2


class Cell(nn.Module):
    """The states of an LSTM after each step, and a layer behind them or not."""

    def __init__(self, last):
        super().__init__()
        self.cell, self.last = nn.LSTMCell(1, 4), last

    def forward(self, x):
        states = [self.cell(x[:, 0])]
        for step in x.unbind(1)[1:]:
            states.append(self.cell(step, states[-1]))
        return self.last(torch.stack([state for state, _ in states], 1))


@pytest.mark.parametrize(("last", "expected"), [(nn.Identity(), ["US603"]), (nn.Linear(4, 4), [])])
def test_states_of_an_lstm_are_between_minus_1_and_1(last, expected):
    x = torch.randn(64, 5, 1)
    assert loud(unstuck.diagnose(Cell(last), x, 1.5 * x.sin().expand(-1, -1, 4), functional.mse_loss)) == expected


@pytest.mark.parametrize("function", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, []), (0.1, 0.9, []), (-1, 1, ["US603"]), (0, 255, ["US603"])]
)
def test_labels_of_a_binary_cross_entropy_are_between_0_and_1(function, low, high, expected):
    found = compared(of(function, low, high))
    assert rules(found) == expected
    if expected:
        assert only(found).severity is Severity.ERROR
        assert ("/ 255" in only(found).remedy) is (high == 255)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["US604"]),
        ({"output_rms": 60.0}, []),
        ({"function": "poisson_nll_loss"}, []),
        ({"classes": True}, []),
        ({"target_rms": 1e9}, []),
    ],
)
def test_targets_of_a_regression_that_are_far_from_the_outputs(changes, expected):
    assert rules(compared(of(low=400.0, high=600.0, **{"target_rms": 500.0} | changes))) == expected


def test_labels_that_are_all_the_same():
    same = of("cross_entropy", 3, 3, (64, 10), target_shape=(64,), classes=True)
    assert rules(compared(same)) == ["US605"]
    assert rules(compared(replace(same, low=2))) == []
    assert rules(compared(replace(same, reads=None))) == []
    assert rules(compared(same), compared(replace(same, low=2, high=2))) == []
    rare = of("binary_cross_entropy", 0, 0)
    assert only(compared(rare)).severity is Severity.NOTE
    assert rules(*[compared(rare)] * 4) == ["US605"]


def test_large_outputs_that_are_wrong_are_named_by_the_loss_of_equal_outputs():
    logits = of("cross_entropy", 0, 9, (64, 10), target_shape=(64,), classes=True, output_rms=8.0)
    named = replace(compared(logits), loss=12.0)
    assert only(named).rule == "US607"
    assert only(named).value == pytest.approx(12 / math.log(10))
    small = replace(compared(replace(logits, output_rms=4.0)), loss=12.0)
    for healthy in (replace(named, loss=6.0), small, compared(logits), replace(named, input_rms=130.0)):
        assert rules(healthy) == []
    assert rules(replace(named, comparisons=(replace(logits, shape=(64, 10**6)),))) == []
    wide = replace(with_weight(named, "1.weight", shape=(10, 1280), size=40.0), loss=12.0)
    assert (rules(wide), rules(with_weight(wide, "1.weight", size=300.0))) == ([], ["US607"])
    assert rules(replace(wide, loss=1200.0)) == ["US607"]
    binary = with_weight(compared(of("binary_cross_entropy_with_logits", 0, 1, output_rms=8.0)), "1.weight", size=10.0)
    assert [rules(replace(binary, loss=loss)) for loss in (2.0, 2.2)] == [[], ["US607"]]


def test_outputs_of_a_regression_that_stay_far_from_the_targets_are_named_by_their_sizes():
    far = replace(compared(of(output_rms=4.0, target_rms=1.0, target_deviation=1.0)), loss=9.0, step=200)
    assert rules(far) == ["US607"]
    assert rules(replace(far, step=50)) == []
    assert rules(replace(far, comparisons=(replace(far.comparisons[0], output_rms=2.5),))) == []
    assert rules(replace(far, comparisons=(replace(far.comparisons[0], target_deviation=0.0),))) == []


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_large_outputs_before_a_log_softmax_are_named_as_those_before_cross_entropy(std):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(64, 64), nn.Tanh()), nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=2 * std)

        def forward(self, x):
            return functional.log_softmax(self.head(self.body(x)), 1)

    found = unstuck.diagnose(Classifier(), torch.randn(128, 64), torch.randint(10, (128,)), functional.nll_loss)
    assert [f.rule for f in found.findings] == (["US607"] if std == 1 else [])


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_unit_normal_weights_in_a_network_of_tanhs_are_found_and_redrawn(std):
    layers = [m for _ in range(8) for m in (nn.Linear(64, 64), nn.Tanh())]
    model, x, y = nn.Sequential(*layers, nn.Linear(64, 10)), torch.randn(128, 64), torch.randint(10, (128,))
    for layer in model[::2]:
        nn.init.normal_(layer.weight, std=std)
    diagnosis = unstuck.diagnose(model, x, y, functional.cross_entropy)
    assert [f.rule for f in diagnosis.findings] == (["US607"] if std == 1 else [])
    for finding in diagnosis.findings:
        exec(finding.call, {"model": model, "torch": torch})
    assert unstuck.diagnose(model, x, y, functional.cross_entropy).healthy


def test_a_discriminator_that_sees_real_and_generated_samples_is_healthy():
    real, generated = of("binary_cross_entropy", 1, 1, (256, 1)), of("binary_cross_entropy", 0, 0, (256, 2))
    assert rules(compared(real, generated)) == []


def test_a_softmax_of_one_number_is_named():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softmax(1))
    targets = (torch.arange(64.0) % 2)[:, None]
    (finding,) = unstuck.diagnose(model, torch.randn(64, 4), targets, functional.mse_loss).findings
    assert (finding.rule, finding.layers) == ("US601", ("3",))
    model[2] = nn.Linear(8, 2)
    assert unstuck.diagnose(model, torch.randn(64, 4), 0.9 * targets.expand(64, 2), functional.mse_loss).findings == ()


def test_an_older_loss_of_unknown_reads_is_judged_as_before():
    assert rules(chain(1.0, loss_function="nll_loss", loss_reads=0)) == ["US601"]


LOSSES = {
    "function": functional.mse_loss,
    "module": nn.MSELoss(),
    "by hand": lambda outputs, targets: (outputs - targets).square().mean(),
    "by hand, other way round": lambda outputs, targets: (targets - outputs).square().mean(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_monitor_sees_the_loss_of_any_loop(loss):
    model, inputs, targets = (
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)),
        torch.randn(32, 4),
        torch.randn(32),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    values = []
    for shape, expected in (((32,), ["US602"]), ((32, 1), [])):
        with unstuck.Monitor(model, every=1) as monitor:
            for _ in range(3):
                optimizer.zero_grad()
                value = loss(model(inputs), targets.reshape(shape))
                value.backward()
                optimizer.step()
                values.append(value.item())
        assert [f.rule for f in monitor.diagnosis().findings] == expected
        assert [m.loss for m in monitor.measurements] == pytest.approx(values[-3:], rel=1e-6)
    (comparison,) = monitor.measurements[-1].comparisons
    assert (comparison.reads, comparison.shape, comparison.target_shape) == (2, (32, 1), (32, 1))
    assert comparison.target_rms == pytest.approx(targets.square().mean().sqrt().item(), rel=1e-6)
    assert (comparison.low, comparison.high) == pytest.approx((targets.min().item(), targets.max().item()))
    assert not math.isnan(comparison.output_rms)


def test_several_calls_of_one_kind_are_one_comparison():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    bce = functional.binary_cross_entropy_with_logits
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            (
                bce(model(torch.randn(32, 4)), torch.ones(32, 1)) + bce(model(torch.randn(32, 4)), torch.zeros(32, 1))
            ).backward()
            optimizer.step()
    (comparison,) = monitor.measurements[-1].comparisons
    assert (comparison.low, comparison.high, comparison.reads) == (0, 1, 2)


def test_a_tensor_outside_the_model_is_not_compared():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scale = torch.ones(1, requires_grad=True)
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            (model(torch.randn(32, 4)).mean() + (scale - torch.full((1,), 500.0)).mean()).backward()
            optimizer.step()
    assert monitor.measurements[-1].comparisons == ()


def test_a_bounded_activation_before_logits_is_wrong():
    x, y = torch.randn(64, 8), torch.arange(64) % 4
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    tanh = unstuck.diagnose(nn.Sequential(*model, nn.Tanh()), x, y, functional.cross_entropy)
    assert [(f.rule, f.remedy) for f in tanh.findings] == [("US601", "Remove `3`: logits may be any real number.")]


@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Softmax(1)])
def test_an_activation_before_the_last_softmax_is_the_wrong_input(last):
    x, y = torch.randn(64, 8), torch.arange(64) % 4

    def named(*layers):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), *layers, last)
        found = unstuck.diagnose(
            model, x, y, lambda out, t: functional.nll_loss(out if out.min() < 0 else out.log(), t)
        )
        return [(f.rule, f.layers) for f in found.findings if f.severity is not Severity.NOTE]

    assert named(nn.ReLU()) == named(nn.Softmax(1)) == [("US601", ("3",))]
    assert named() == named(nn.LeakyReLU()) == []


def test_a_single_class_is_always_right():
    finding = unstuck.diagnose(
        nn.Linear(8, 1), torch.randn(64, 8), torch.zeros(64, dtype=torch.long), functional.cross_entropy
    ).findings[0]
    assert (finding.rule, finding.remedy.startswith("Give the last layer one output")) == ("US601", True)


@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss"])
def test_labels_of_classes_have_one_dimension_less_than_outputs_and_do_not_broadcast(function):
    labels = {"target_shape": (8,), "classes": True, "low": 0, "high": 7}
    log_softmax = activation("1", 1.0, 0, kind="log_softmax()")
    square = replace(measurement(linear("0", 1.0), log_softmax), comparisons=(of(function, shape=(8, 8), **labels),))
    assert "US602" not in rules(square)
    assert rules(compared(of("mse_loss", shape=(8, 1), **labels))) == ["US602"]


def test_similarities_over_a_temperature_may_be_large_at_the_start():
    logits = of("cross_entropy", 0, 9, (64, 10), target_shape=(64,), classes=True, output_rms=8.0)
    assert rules(replace(compared(replace(logits, reads=None)), loss=12.0)) == []


@pytest.mark.parametrize(("target", "expected"), [(3.0, ["US603"]), (1.01, []), (0.9, [])])
def test_a_single_target_out_of_reach_is_found(target, expected):
    model = nn.Sequential(nn.Linear(4, 1), nn.Tanh())
    found = unstuck.diagnose(model, torch.randn(1, 4), torch.full((1, 1), target), nn.functional.mse_loss).findings
    assert [f.rule for f in found if f.rule == "US603"] == expected


def test_a_single_column_is_no_classification_whatever_the_targets():
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    labels = (torch.arange(32) % 2).float()[:, None]
    assert loud(unstuck.diagnose(model, torch.randn(32, 2), labels, functional.cross_entropy)) == ["US601"]


def test_a_softmax_of_one_unit_is_named_in_a_loss_by_hand():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1), nn.Softmax(-1))
    labels = (torch.arange(64) % 2).float()[:, None]

    def by_hand(p, y):
        return -(y * p.clamp(1e-7, 1).log()).sum(-1).mean()

    assert "US601" in loud(unstuck.diagnose(model, torch.randn(64, 4), labels, by_hand))


@pytest.mark.parametrize(
    ("before", "logarithm", "expected"),
    [
        (nn.Identity(), lambda x: x.clamp(min=1e-7).log(), ["US601"]),
        (nn.Identity(), lambda x: torch.log(x + 1e-9), ["US601"]),
        (nn.Softmax(-1), lambda x: x.clamp(min=1e-7).log(), []),
        (nn.Identity(), lambda x: torch.log(x.clamp(min=0) + 1), []),
    ],
    ids=["clamped", "shifted", "of a softmax", "of counts"],
)
def test_a_logarithm_of_outputs_that_are_no_probabilities(before, logarithm, expected):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5), before)
    with torch.no_grad():
        model[2].bias.fill_(0.5)
    answers = functional.one_hot(torch.arange(64) % 5).float()
    found = unstuck.diagnose(model, torch.randn(64, 4), answers, lambda x, y: -(y * logarithm(x)).sum(-1).mean())
    assert [rule for rule in loud(found) if rule == "US601"] == expected


def test_ignored_targets_are_no_labels():
    model, ignored = nn.Linear(6, 3), torch.full((64,), -100)
    found = unstuck.diagnose(model, torch.randn(64, 6), ignored, nn.functional.cross_entropy).findings
    assert [f.rule for f in found if f.severity != "note"] == ["US401"]
