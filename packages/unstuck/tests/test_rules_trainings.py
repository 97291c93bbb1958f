"""US103, US203, US204, US301, US302, US307, US507, US510: what several measurements of a training tell."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from unstuck_support.layers import activation, linear, measurement, rules, training, with_weight

import unstuck

FLAT, FALLING = [2.3] * 12, [2.3 * 0.8**i for i in range(12)]
X, Y = torch.randn(128, 64), torch.randint(10, (128,))


def dying(dead, largest, first=0.1, usual=0.05):
    layers = [linear("0", 1.0), activation("1", 1.0, 0, dead=first), linear("2", 1.0, 1)]
    later = measurement(layers[0], replace(layers[1], dead=dead), layers[2])
    steps = [replace(later, step=i) for i in range(1, 6)]
    steps = [replace(measurement(*layers), step=0), *steps]
    for name in ("0.weight", "2.weight"):
        steps = [with_weight(m, name, update=largest if m.step == 2 else usual, rate=0.1) for m in steps]
    return rules(*steps)


def test_units_that_die_after_a_large_step_are_named_with_this_step_first():
    assert dying(0.95, 0.2) == ["US302", "US202"]
    assert dying(0.95, 0.09) == ["US202"]
    assert dying(0.95, 0.2, first=0.95) == ["US202"]
    assert dying(0.3, 0.2) == []
    assert dying(0.95, 0.2, usual=0.15) == ["US302", "US202"]


@pytest.mark.parametrize(
    ("shares", "factor", "expected"),
    [
        ((0.6,) * 4, 0.8, []),
        ((0.8, 0.8), 0.8, []),
        ((0.7,) * 4, 0.97, ["US510"]),
        ((0.6,) * 4, 1.0, ["US510"]),
        ((0.9,), 0.8, ["US510"]),
    ],
    ids=["GAT", "DAGNN", "slow", "stands still", "reversed"],
)
def test_strong_dropout_is_a_note_while_the_loss_falls(shares, factor, expected):
    steps = training([1e-3] * 12, [2.3 * factor**i for i in range(12)])
    assert rules(*(replace(m, dropouts=shares) for m in steps)) == expected
    assert rules(*(replace(m, dropouts=shares) for m in steps[:3])) == ["US510"], "too few losses tell nothing"


def change(part):
    """A training of which a layer loses, gets and renames parameters after half of the steps."""
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 8)
    with unstuck.Monitor(model, every=2) as monitor:
        for i in range(20):
            if i == 10:
                part(model)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return monitor.diagnosis()


@pytest.mark.parametrize(
    "part",
    [
        lambda model: prune.l1_unstructured(model[0], "weight", 0.5),
        lambda model: parametrizations.weight_norm(model[0]),
        lambda model: model.__delitem__(slice(1, None)),
        lambda model: model.append(nn.Linear(2, 2)),
    ],
    ids=["pruned", "parametrised", "shortened", "lengthened"],
)
def test_parameters_may_come_and_go_in_a_training(part):
    diagnosis = change(part)
    assert "0.bias" in {weight.name for weight in diagnosis.measurement.weights}
    assert "US301" not in {finding.rule for finding in diagnosis.findings}


def descent(model, loss, rate, steps=120, momentum=0.0):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    with unstuck.Monitor(model, every=steps // 12) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
    return [f.rule for f in monitor.diagnosis().findings]


def test_a_logarithm_of_0_is_no_large_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
    x, calls = torch.randn(64, 8), iter(range(100))
    labels = (x[:, :1] > 0).float()

    def loss(model):
        p = model(x)
        return -(labels * torch.log(p * (next(calls) != 60))).mean()

    found = descent(model, loss, 0.05, steps=96)
    assert "US401" in found
    assert "US302" not in found
