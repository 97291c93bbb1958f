"""Networks and trainings that look odd and learn: what is not said of them, or said as a note."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional
from unstuck_support.layers import activation, linear, loud, measurement, rules, training

import unstuck
from unstuck.findings import Severity
from unstuck.measure.measurement import Comparison
from unstuck.rules import find

X, Y = torch.randn(64, 8), torch.randint(4, (64,))


class Product(nn.Module):
    """A weight and a bias, without a layer."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(weight.shape[1]))

    def forward(self, x):
        return x @ self.weight + self.bias


def test_the_bias_of_a_product_is_cleared_although_its_gradient_comes_first():
    model = Product(torch.randn(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
    assert loud(monitor.diagnosis()) == []


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid(), nn.Softplus(), nn.LogSigmoid()], ids=str)
def test_an_activation_of_a_layer_that_starts_at_0_has_not_collapsed(last):
    head = nn.Linear(8, 4)
    nn.init.zeros_(head.weight)
    loss = functional.mse_loss
    assert "US203" not in loud(
        unstuck.diagnose(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), head, last), X, X[:, :4], loss)
    )


LABELS = Comparison("cross_entropy", 3, (64, 10), (64,), classes=True, high=9.0, target_rms=5.0, varied=True)
SHARES = replace(LABELS, function="binary_cross_entropy", low=0.0, high=0.1, classes=False)


@pytest.mark.parametrize(
    ("loss", "compared", "severity"),
    [
        *((0.22, LABELS, Severity.NOTE), (0.24, LABELS, Severity.WARNING)),
        (0.001, SHARES, Severity.WARNING),
    ],
)
def test_saturated_neurons_are_a_note_if_the_loss_is_a_tenth_of_that_of_a_constant(loss, compared, severity):
    layers = [linear("0", 1.0), activation("1", 1.0, 0, kind="Tanh", saturated=1.0, relative_slope=0.01)]
    found = measurement(*layers, linear("2", 1.0, 1), linear("3", 1.0, 2), loss=loss, comparisons=(compared,))
    assert [(f.rule, f.severity) for f in find([found])] == [("US201", severity)]


@pytest.mark.parametrize(("last", "severity"), [(0.045, Severity.NOTE), (0.047, Severity.WARNING)])
def test_without_known_targets_it_is_a_note_if_the_loss_is_a_fiftieth_of_the_first(last, severity):
    tanh = activation("1", 1.0, 0, kind="Tanh", saturated=1.0, relative_slope=0.01)
    steps = [
        replace(measurement(linear("0", 1.0), tanh, linear("2", 1.0, 1)), loss=x, step=0) for x in (2.3, 1.0, last)
    ]
    assert [(f.rule, f.severity) for f in find(steps)] == [("US201", severity)]


class Masked(nn.Module):
    """A softmax of scores that a mask hides, for some samples all of them."""

    def __init__(self, replaces):
        super().__init__()
        self.scores, self.values, self.replaces = nn.Linear(8, 8), nn.Linear(8, 4), replaces

    def forward(self, x):
        weights = self.scores(x).masked_fill(x.sum(1, keepdim=True) > 0, -torch.inf).softmax(1)
        return self.values(weights.nan_to_num() if self.replaces else weights)


@pytest.mark.parametrize(("replaces", "severity"), [(True, Severity.NOTE), (False, Severity.ERROR)])
def test_nan_that_the_network_replaces_is_a_note(replaces, severity):
    found = unstuck.diagnose(Masked(replaces), X, Y, functional.cross_entropy).findings
    assert [f.severity for f in found if f.rule == "US401"] == [severity]


def test_steps_at_a_good_rate_are_long_enough():
    assert rules(*(replace(m, step=9 * i) for i, m in enumerate(training([1e-2] * 12, [2.3] * 12)))) == []


def test_layers_with_an_activation_a_product_or_a_recurrence_are_no_linear_network():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.last(self.a(x) * self.b(x))

    narrow = nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2), nn.Linear(2, 8))
    pooled = nn.Sequential(nn.Conv1d(1, 8, 3), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(24, 4))
    for model, x in ((Gate(), X), (narrow, X), (pooled, X[:, None])):
        assert "US507" not in loud(unstuck.diagnose(model, x))


class Sign(torch.autograd.Function):
    """1 where the inputs are positive; its gradient is that of its inputs."""

    @staticmethod
    def forward(ctx, x):
        return (x >= 0).float()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def _without_negatives(x):
    x = x.clone()
    x[x < 0] = 0
    return x


@pytest.mark.parametrize(
    "bend",
    [lambda x: x * (x > 0), Sign.apply, _without_negatives, lambda x: x + torch.from_numpy(x.detach().numpy() ** 2)],
    ids=["product", "function", "assignment", "NumPy"],
)
@pytest.mark.parametrize("hidden", [1, 2])
def test_an_activation_written_by_hand_is_one(bend, hidden):
    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            for layer in self.layers[:hidden]:
                x = bend(layer(x))
            return self.layers[2](torch.relu(self.layers[1](x)) if hidden == 1 else x)

    assert loud(unstuck.diagnose(Bent(), X, Y, functional.cross_entropy)) == []


def test_a_bottleneck_without_a_bias_is_a_factor():
    model = nn.AdaptiveLogSoftmaxWithLoss(64, 60, [10], div_value=1.5)
    x, words = torch.randn(64, 64), torch.arange(64) % 60
    assert loud(unstuck.diagnose(model, (x, words), loss_fn=lambda outputs, _: outputs.loss)) == []


def test_a_weight_that_is_gone_from_the_model_ends_no_diagnosis():
    steps = training([1e-2] * 12, [2.3] * 12)
    weights = tuple(replace(w, name=f"{w.name}_orig") for w in steps[-1].weights)
    assert rules(*steps[:-1], replace(steps[-1], weights=weights)) == []


class Force(nn.Module):
    """The gradient of a potential: all layers run inside of torch.func, and the last bias has no effect."""

    def __init__(self):
        super().__init__()
        self.potential = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        return vmap(grad(lambda z: self.potential(z).squeeze()))(x)


def test_a_network_that_runs_inside_of_a_function_transform_is_diagnosed():
    assert loud(unstuck.diagnose(Force(), X, X, functional.mse_loss)) == []


class Preferences(nn.Module):
    """The log-ratio of two answers beside that of a frozen copy: 0 at first."""

    def __init__(self):
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)

    def forward(self, x, y):
        answers, others = (
            [m(x).log_softmax(1).gather(1, z[:, None]) for m in (self.policy, self.reference)] for z in y
        )
        return answers[0] - answers[1] - (others[0] - others[1])


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, _: -functional.logsigmoid(0.1 * o).mean(),
        lambda o, _: functional.softplus(-0.1 * o).mean(),
        lambda o, _: 1 - torch.sigmoid(o[:32] - o[:32].mean().detach()).mean(),
    ],
    ids=["DPO", "softplus", "KTO"],
)
def test_a_policy_that_equals_its_reference_has_not_collapsed(loss):
    assert loud(unstuck.diagnose(Preferences(), (X, (Y, (Y + 1) % 4)), loss_fn=loss)) == []


def test_what_parameters_alone_make_is_the_same_for_all_samples_and_no_collapse():
    bins = activation("softmax", 0.1, kind="softmax()", spread=0.0)  # of a flow, whose first depend on no input
    assert rules(measurement(bins, activation("softplus", 0.1, 0, kind="softplus()", spread=0.0))) == []
    assert rules(measurement(bins, linear("1", 0.1, 0, spread=0.0))) == ["US203"]


def test_a_network_that_loses_its_inputs_has_collapsed_although_it_ends_in_an_activation():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4), nn.LogSigmoid())
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
    assert "US203" in loud(unstuck.diagnose(model, X, loss_fn=lambda o, _: -o.mean()))
