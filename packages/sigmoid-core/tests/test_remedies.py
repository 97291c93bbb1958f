"""With Sigmoid Core installed, findings have its calls, which run as printed; without one, the finding says why."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import sigmoidcore as sc
import unstuck
from sigmoidcore.core import SigmoidCore
from unstuck.findings import Severity


def linears(count=12, width=32):
    return nn.ModuleList(nn.Linear(width, width) for _ in range(count))


class Shared(nn.Module):
    """One activation module for all layers."""

    def __init__(self):
        super().__init__()
        self.layers, self.act, self.head = linears(), nn.Sigmoid(), nn.Linear(32, 10)

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)


class Branches(nn.Module):
    """A forward that depends on data, with a module for each activation."""

    def __init__(self):
        super().__init__()
        self.layers, self.head = linears(), nn.Linear(32, 10)
        self.acts = nn.ModuleList(nn.Sigmoid() for _ in self.layers)

    def forward(self, x):
        for layer, act in zip(self.layers, self.acts, strict=True):
            x = act(layer(x))
            if x.isnan().any():
                raise ValueError("not finite")
        return self.head(x)


class BranchesAndCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = linears(), nn.Linear(32, 10)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
            if x.isnan().any():
                raise ValueError("not finite")
        return self.head(x)


class Options(Branches):
    """As transformers of Hugging Face: one of two arguments must be given."""

    def forward(self, ids=None, embeds=None):
        if (ids is None) == (embeds is None):
            raise ValueError("give one of both")
        x = embeds if ids is None else functional.one_hot(ids, 32).float()
        for layer, act in zip(self.layers, self.acts, strict=True):
            x = act(layer(x))
        return self.head(x)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(*(m for layer in linears() for m in (layer, nn.Sigmoid())))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(torch.cat([self.tower(x), self.tower(x.flip(0))], 1))


class SiameseAndMore(Siamese):
    """Both towers are followed by layers that run once."""

    def __init__(self):
        super().__init__()
        self.more = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.Sigmoid())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.more(torch.cat([self.tower(x), self.tower(x.flip(0))], 1)))


def normed():
    layers = [nn.utils.parametrizations.weight_norm(layer) for layer in linears()]
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.Sigmoid())), nn.Linear(32, 10))


def vanishing(model, inputs=None):
    torch.manual_seed(0)
    inputs = torch.randn(64, 32) if inputs is None else inputs
    return unstuck.diagnose(model, inputs, torch.randint(10, (64,)), functional.cross_entropy), inputs


PREPARE = "sc.prepare(model, inputs)\noptimizer = torch.optim.Adam(sc.depth_scaled_lr(model))"


def ran(call, model, inputs, diagnosis):
    """The call as a user pastes it, on a copy."""
    model = copy.deepcopy(model)
    exec(call, {"sc": sc, "torch": torch, "model": model, "inputs": inputs, "diagnosis": diagnosis})
    return model


@pytest.mark.parametrize(
    ("make", "convert"),
    [
        (Shared, "sc.convert(model, include=['act'], centered=True)\n"),
        (Branches, "sc.convert(model, include=torch.nn.Sigmoid, centered=True)\n"),
        (SiameseAndMore, "sc.convert(model, centered=True)\n"),
        (normed, "sc.convert(model)\n"),
    ],
)
def test_the_printed_call_runs_and_makes_cores(make, convert):
    torch.manual_seed(0)
    model = make()
    before = copy.deepcopy(model.state_dict())
    diagnosis, inputs = vanishing(model)
    finding = next(f for f in diagnosis.findings if f.rule == "US101")
    then = "sc.calibrate(model, inputs)" if make is normed else PREPARE
    assert finding.call == convert + then
    assert ("the weights do not change" in finding.remedy) is (make is normed)
    assert "learned nothing yet" not in finding.remedy  # `prepare` cannot draw computed weights
    assert not any(isinstance(m, SigmoidCore) for m in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert any(isinstance(m, SigmoidCore) for m in ran(finding.call, model, inputs, diagnosis).modules())


def test_the_call_for_a_model_with_optional_arguments_works():
    torch.manual_seed(0)
    model = Options()
    diagnosis, inputs = vanishing(model, {"embeds": torch.randn(64, 32)})
    finding = diagnosis.findings[0]
    assert finding.call == "sc.convert(model, include=torch.nn.Sigmoid, centered=True)\n" + PREPARE
    ran(finding.call, model, inputs, diagnosis)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Siamese, "is used in 2 places, which need one each"),
        (BranchesAndCalls, "make its calls modules, such as nn.Sigmoid()"),
    ],
)
def test_without_a_working_call_the_remedy_says_why_beside_the_plain_call(make, why):
    torch.manual_seed(0)
    diagnosis, _ = vanishing(make())
    finding = next(f for f in diagnosis.findings if f.rule == "US101")
    assert "orthogonal_" in finding.call
    assert why in finding.remedy
    assert "sigmoid-core has no call for this model" in finding.remedy


def saturated(model, inputs):
    targets = torch.randint(10, (64,))
    diagnosis = unstuck.diagnose(model, inputs, targets, functional.cross_entropy)
    return next(f for f in diagnosis.findings if f.rule == "US201"), targets


def test_the_call_for_saturated_neurons_opens_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    with torch.no_grad():
        net[2].bias.add_(20)
    features, labels = torch.randn(64, 32), torch.randint(10, (64,))
    finding = unstuck.diagnose(net, features, labels, functional.cross_entropy).findings[0]
    assert (finding.rule, finding.call[:34]) == ("US201", "sc.convert(net)\nsc.prepare(net, fe")
    exec(finding.call)
    assert unstuck.diagnose(net, features, labels, functional.cross_entropy).healthy


def test_a_value_without_a_name_is_called_as_the_argument():
    torch.manual_seed(0)
    network = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(32, 32), nn.Sigmoid())))
    call = unstuck.diagnose(network, torch.randn(64, 32)).findings[0].call
    assert call.startswith("sc.convert(network, centered=True)\nsc.prepare(network, inputs)\n")


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.value, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        nn.init.constant_(self.gate.bias, -30.0)

    def forward(self, x):
        return self.head(torch.sigmoid(self.gate(x)) * torch.tanh(self.value(x)))


def test_a_closed_gate_gets_no_call():
    finding, _ = saturated(Gate(), torch.randn(64, 32))
    assert finding.call is None


def test_an_untraceable_forward_does_not_fail_a_diagnosis():
    class Counting(Branches):
        def forward(self, x):
            assert isinstance(x, torch.Tensor), "no tensor"
            assert type(x).__name__ != "Proxy"
            return super().forward(x)

    assert [f.rule for f in vanishing(Counting())[0].findings if f.severity is not Severity.NOTE] == ["US101"]


@pytest.mark.parametrize(("depth", "named"), [(2, False), (8, True)])
def test_rates_for_the_depth_are_named_where_there_is_a_depth(depth, named):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), nn.Tanh())]
    model, x, y = nn.Sequential(*layers, nn.Linear(32, 10)), torch.randn(64, 32), torch.randint(10, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    with unstuck.Monitor(model) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    finding = next(f for f in monitor.diagnosis(seconds=0).findings if f.rule == "US302")
    assert ("sc.depth_scaled_lr(model)" in finding.remedy) is named
