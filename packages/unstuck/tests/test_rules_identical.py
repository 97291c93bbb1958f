"""US503: neurons and modules that are equal, and stay so."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import chain, loud, rules, with_weight
from unstuck_support.measurements import changed

import unstuck
from unstuck.measure.measurement import Weight


def test_gains_of_one_beside_random_weights_are_not_identical_neurons():
    found = chain(1.0, 1.0)
    gain = Weight("0.gain", (found.weights[0].shape[0], 1, 1, 1), size=1.4, gradient=1.0, alike=True)
    layers = (replace(found.layers[0], weights=("0.weight", "0.gain")), *found.layers[1:])
    assert rules(replace(found, layers=layers, weights=(*found.weights, gain))) == []
    alone = (replace(found.layers[0], weights=("0.gain",)), *found.layers[1:])
    assert rules(replace(found, layers=alone, weights=(gain, *found.weights[1:]))) == ["US503"]


def test_identical_neurons_explain_other_findings():
    found = with_weight(chain(1e-9, 1e-9, 1.0), "0.weight", alike=True)
    assert rules(found) == ["US503"]


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
def test_rows_may_be_identical_if_they_are_frozen_or_read_different_inputs(name, healthy):
    assert rules(with_weight(chain(1.0, 1.0, 1.0), name, alike=True, **healthy)) == []


def test_embeddings_may_start_identical():
    found = changed(with_weight(chain(1.0, 1.0), "0.weight", alike=True), 0, kind="Embedding")
    assert rules(found) == []


def test_deviations_of_a_bayesian_layer_may_be_identical():
    found = changed(chain(1.0, 1.0, 1.0), 0, weights=("0.mean", "0.rho"))
    mean, rho = Weight("0.mean", (10, 10), size=1.0, gradient=1.0), Weight("0.rho", (10, 10), size=1.0, alike=True)
    both = replace(found, weights=(*found.weights[1:], mean, replace(rho, gradient=1.0)))
    assert rules(both) == []
    assert rules(with_weight(both, "0.mean", alike=True)) == ["US503"]


class Noisy(nn.Module):
    """The mean of a Bayesian layer and its deviation, as two layers whose outputs are added."""

    def __init__(self, same):
        super().__init__()
        self.mean, self.deviation, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        nn.init.constant_(self.deviation.weight, 0.1)
        if same:
            nn.init.constant_(self.mean.weight, 0.2)

    def forward(self, x):
        return self.last((self.mean(x) + self.deviation(x) * 0.1).tanh())


@pytest.mark.parametrize(("same", "expected"), [(False, []), (True, ["US503"])])
def test_neurons_may_be_identical_if_others_are_added(same, expected):
    found = unstuck.diagnose(Noisy(same), torch.randn(64, 8), torch.randn(64, 3), nn.functional.mse_loss)
    assert loud(found) == expected


class Experts(nn.Module):
    """The mean of several networks."""

    def __init__(self, experts):
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, x):
        return sum(expert(x) for expert in self.experts)


def test_copies_that_get_the_same_gradient_stay_equal():
    def findings(*experts):
        return unstuck.diagnose(
            Experts(experts), torch.randn(64, 8), torch.randn(64, 3), nn.functional.mse_loss
        ).findings

    expert = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
    (found,) = findings(expert, copy.deepcopy(expert))
    assert (found.rule, set(found.layers)) == ("US503", {"experts.0.0", "experts.1.0"})
    assert findings(expert, nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))) == ()
    assert findings(expert, nn.Sequential(nn.Tanh(), copy.deepcopy(expert))) == ()  # another gradient


def test_weights_of_0_that_feed_weights_of_0_are_identical_neurons():
    model = nn.Sequential(nn.Linear(8, 8), nn.Softmax(1), nn.Linear(8, 4))
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    assert "US503" in loud(unstuck.diagnose(model, x, y, nn.functional.cross_entropy))
    nn.init.normal_(model[2].weight)
    assert "US503" not in loud(unstuck.diagnose(model, x, y, nn.functional.cross_entropy))


def test_neurons_of_0_that_feed_random_weights_too_are_not_identical():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.zero, self.random = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
            nn.init.zeros_(self.hidden.weight)
            nn.init.zeros_(self.zero.weight)

        def forward(self, x):
            hidden = self.hidden(x).sigmoid()
            return self.zero(hidden) + self.random(hidden)

    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    assert "US503" not in loud(unstuck.diagnose(Heads(), x, y, nn.functional.cross_entropy))


def test_the_last_layer_of_a_branch_and_the_head_may_start_at_0():
    class Fixup(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last, self.head = (nn.Linear(8, 8) for _ in range(4))
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.head.weight)

        def forward(self, x):
            x = self.first(x)
            return self.head((x + self.last(self.inner(x).relu())).relu())

    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    assert "US503" not in loud(unstuck.diagnose(Fixup(), x, y, nn.functional.cross_entropy))


class LowRank(nn.Module):
    """A frozen weight and a product of two factors, merged; one factor starts at 0."""

    def __init__(self, inputs, outputs, frozen, factor):
        super().__init__()
        self.base = nn.Parameter(frozen * torch.randn(outputs, inputs), requires_grad=False)
        self.up, self.down = nn.Parameter(torch.zeros(outputs, 2)), nn.Parameter(factor * torch.randn(2, inputs))

    def forward(self, x):
        return functional.linear(x, self.base + self.up @ self.down)


class Gated(nn.Module):
    """A branch that starts at 0: a gate of constants, beside another signal or none, and a last layer of 0."""

    def __init__(self, beside):
        super().__init__()
        self.gate, self.value, self.last, self.beside = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), beside
        for weight in (self.gate.weight, self.last.weight, self.last.bias):
            nn.init.zeros_(weight)
        nn.init.ones_(self.gate.bias)

    def forward(self, x):
        return x + self.last(self.beside(torch.sigmoid(self.gate(x)), self.value(x)))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([LowRank(8, 8, 1, 1), nn.GELU(), LowRank(8, 8, 1, 1)], False),
        ([LowRank(8, 8, 0, 1), nn.Sigmoid(), LowRank(8, 8, 0, 1)], False),
        ([nn.Linear(8, 8), Gated(torch.mul), nn.Linear(8, 8)], False),
        ([nn.Linear(8, 8), Gated(torch.add), nn.Linear(8, 8)], False),
        ([nn.Linear(8, 8), Gated(lambda gate, value: torch.cat([gate[:, :4], value[:, :4]], 1))], False),
        ([nn.Linear(8, 8), Gated(lambda gate, value: gate), nn.Linear(8, 8)], True),
    ],
    ids=["merged", "product of factors", "gate", "sum", "beside", "alone"],
)
def test_weights_of_0_behind_which_another_signal_or_factor_tells_the_neurons_apart_are_healthy(parts, expected):
    torch.manual_seed(0)
    model = nn.Sequential(*parts)
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    found = unstuck.diagnose(model, x, y, nn.functional.cross_entropy)
    assert ("US503" in loud(found)) == expected
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    zero = model[0].up if isinstance(model[0], LowRank) else model[1].gate.weight
    assert bool((zero == zero[:1]).all()) == expected
