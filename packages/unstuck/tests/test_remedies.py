"""The calls of findings in plain PyTorch run as printed, and help; packages that build on this one come first."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck
from unstuck import extensions


def deep(activation, depth=20, width=32):
    return nn.Sequential(
        *(m for _ in range(depth) for m in (nn.Linear(width, width), activation())), nn.Linear(width, 10)
    )


def scaled(model, factor):
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(std=factor * layer.in_features**-0.5)
                layer.bias.zero_()
    return model


def dead():
    model = deep(nn.ReLU, depth=3)
    with torch.no_grad():
        model[2].bias.fill_(-10.0)
        model[0].bias.zero_()
    return model


def batch(width=32):
    targets = torch.arange(256) % 10
    return torch.randn(256, width) + 3 * functional.one_hot(targets, width), targets


def loss_after(model, x, y, steps=150):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


BROKEN = {
    "US101 of sigmoids": lambda: deep(nn.Sigmoid),
    "US101 of small weights": lambda: scaled(deep(nn.ReLU), 0.3),
    "US102": lambda: scaled(deep(nn.ReLU), 5.0),
    "US607": lambda: scaled(deep(nn.Tanh, depth=4), 12.0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_call_runs_as_printed_and_the_network_learns_then(name):
    torch.manual_seed(0)
    model, (x, y) = BROKEN[name](), batch()
    before = copy.deepcopy(model.state_dict())
    diagnosis = unstuck.diagnose(model, x, y, functional.cross_entropy)
    finding = next(f for f in diagnosis.findings if f.rule == name[:5])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    repaired = copy.deepcopy(model)
    exec(finding.call, {"torch": torch, "model": repaired})
    assert loss_after(repaired, x, y) < 0.5
    assert loss_after(model, x, y) > 1.0


def test_trained_weights_get_no_call_that_draws_others():
    torch.manual_seed(0)
    model, (x, y) = deep(nn.Tanh, depth=3), batch()
    loss_after(model, x, y, 20)
    with torch.no_grad():
        model[2].bias.add_(40.0)
    (finding,) = (f for f in unstuck.diagnose(model, x, y, functional.cross_entropy).findings if f.rule == "US201")
    assert finding.call is None
    assert finding.remedy.startswith("Use smaller weights")


def test_the_remedy_of_another_package_replaces_the_plain_one(monkeypatch):
    class Point:
        name, module = "better", "better.remedies"

        def load(self):
            return lambda finding, measurement, subject: (f"Better for {finding.rule}.", "better.repair(model)")

    monkeypatch.setattr("unstuck.extensions.entry_points", lambda **_: (Point(),))
    extensions.extensions.cache_clear()
    finding = unstuck.diagnose(deep(nn.Sigmoid), *batch(), functional.cross_entropy).findings[0]
    assert (finding.remedy, finding.call) == ("Better for US101.", "better.repair(model)")


def test_a_package_without_a_call_for_the_model_says_why_beside_the_plain_call(monkeypatch):
    class Point:
        name, module = "better", "better.remedies"

        def load(self):
            raise ValueError("it cannot be traced")

    monkeypatch.setattr("unstuck.extensions.entry_points", lambda **_: (Point(),))
    extensions.extensions.cache_clear()
    finding = unstuck.diagnose(deep(nn.Sigmoid), *batch(), functional.cross_entropy).findings[0]
    assert finding.remedy.endswith("better has no call for this model (it cannot be traced).")
    assert "orthogonal_" in finding.call
