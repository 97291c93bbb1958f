"""US609, US610: the terms of a loss and the weights of classes."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import loud

import unstuck

X, RARE = torch.randn(128, 64), (torch.arange(128) < 8).long()
REWARDS = torch.randn(128, 1)


def mlp(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


@pytest.mark.parametrize(
    ("weights", "labels", "expected"),
    [
        ((120.0, 8.0), RARE, ["US610"]),
        ((8.0, 120.0), RARE, []),
        ((120.0, 80.0), RARE, []),
        ((120.0, 8.0), torch.arange(128) % 2, []),
        ((1.0, 0.0), RARE, []),
    ],
    ids=["frequencies", "inverse", "nearly equal", "balanced labels", "an ignored class"],
)
def test_class_weights_of_frequent_classes_are_not_the_largest(weights, labels, expected):
    loss = nn.CrossEntropyLoss(weight=torch.tensor(weights))
    assert loud(unstuck.diagnose(mlp(2), (X,), labels, loss)) == expected


@pytest.mark.parametrize(("pull", "expected"), [(1 / 15, ["US610"]), (15.0, [])])
@pytest.mark.parametrize("labels", [1, 4])
def test_a_weight_of_positives_is_that_of_the_negatives_over_theirs(pull, expected, labels):
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.full((labels,), pull))
    assert loud(unstuck.diagnose(mlp(labels), (X,), RARE.float().unsqueeze(1).repeat(1, labels), loss)) == expected


@pytest.mark.parametrize(
    "squared",
    [lambda d: d.square(), lambda d: d**2, lambda d: d * d, lambda d: torch.pow(d, 2).flatten(1)],
    ids=["square", "power", "product", "reshaped"],
)
def test_a_squared_difference_by_hand_adds_its_part_whatever_its_weights(squared):
    model, weights = mlp(64), torch.rand(128, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            outputs = model(X)
            part = 7 * (weights * squared(X - outputs)).sum(1).mean()
            (part + outputs.abs().mean()).backward()
            optimizer.step()
    (term,) = monitor.measurements[-1].terms
    assert term.part == pytest.approx(part.item(), rel=1e-5)
    assert term.value == pytest.approx((X - outputs).square().mean().item(), rel=1e-5)
    assert term.reconstructs


def in_place(x):
    x *= 0.01
    return x.sum()


@pytest.mark.parametrize(
    "reduced", [lambda x: x.sum(1).mean(), lambda x: (x * (x > 0)).sum() / 7, in_place], ids=["sum", "masked", "inside"]
)
def test_a_loss_function_without_a_reduction_adds_what_is_made_of_it(reduced):
    model = mlp(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            outputs = model(X)
            part = 3 * reduced(functional.mse_loss(outputs, X, reduction="none"))
            (part + outputs.abs().mean()).backward()
            optimizer.step()
    (term,) = monitor.measurements[-1].terms
    assert term.part == pytest.approx(part.item(), rel=1e-5)
    assert term.value == pytest.approx((X - outputs).square().mean().item(), rel=1e-5)
    assert term.reconstructs


@pytest.mark.parametrize("made", [torch.exp, torch.square, lambda x: (x + 1).log()], ids=["exp", "square", "log"])
def test_what_is_no_sum_of_the_numbers_of_a_loss_function_is_no_part_of_it(made):
    model = mlp(64)
    with unstuck.Monitor(model, every=1) as monitor:
        made(functional.mse_loss(model(X), X, reduction="none").mean(1)).mean().backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert monitor.measurements[-1].terms == ()


@pytest.mark.parametrize(
    "error",
    [
        functional.mse_loss,
        lambda y, x: functional.mse_loss(y, x, reduction="none").mean(),
        lambda y, x: ((y - x) ** 2).mean(),
    ],
    ids=["function", "reduced later", "by hand"],
)
@pytest.mark.parametrize(("factor", "expected"), [(1.0, ["US609"]), (1e-4, [])], ids=["drowned", "small"])
def test_a_penalty_of_the_code_that_drowns_the_reconstruction(factor, expected, error):
    torch.manual_seed(0)
    encoder, decoder = nn.Sequential(nn.Linear(64, 64), nn.Tanh()), nn.Linear(64, 64)
    model = nn.Sequential(encoder, decoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with unstuck.Monitor(model, every=10) as monitor:
        for _ in range(130):
            optimizer.zero_grad()
            penalty = encoder(X).square().sum(1).mean()
            (error(model(X), X) + factor * penalty).backward()
            optimizer.step()
    assert [rule for rule in loud(monitor.diagnosis()) if rule != "US507"] == expected
