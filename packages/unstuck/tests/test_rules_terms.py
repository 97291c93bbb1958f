"""US309, US609 to US611: the terms of a loss, their signs, the weights of classes and the gradient of targets."""

import copy

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
    ("target", "expected"),
    [
        (lambda values: REWARDS + 0.9 * values, ["US309"]),
        (lambda values: (REWARDS.squeeze(1) + 0.9 * values.squeeze(1)).unsqueeze(1), ["US309"]),
        (lambda values: REWARDS + 0.9 * values.detach(), []),
        (lambda values: values, []),
    ],
    ids=["reward", "reshaped", "detached", "two views"],
)
def test_a_bootstrapped_target_has_no_gradient(target, expected):
    model = mlp(1)

    def loss(values, following):
        return functional.mse_loss(values, target(model(following)))

    assert loud(unstuck.diagnose(model, (X,), X.roll(1, 0), loss)) == expected
    copied = copy.deepcopy(model)
    beside = unstuck.diagnose(model, (X,), X.roll(1, 0), lambda o, x: functional.mse_loss(o, target(copied(x))))
    assert loud(beside) == [], "no optimizer moves the target"


@pytest.mark.parametrize(
    ("factor", "size", "expected"),
    [(1.0, 20.0, ["US609"]), (1e-2, 20.0, []), (1.0, 0.0, [])],
    ids=["swamped", "weighted", "equal"],
)
def test_a_term_that_another_drowns(factor, size, expected):
    model, labels = mlp(11), X[:, 1:11].argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-3 / factor)
    with unstuck.Monitor(model, every=10) as monitor:
        for _ in range(130):
            optimizer.zero_grad()
            outputs = model(X)
            distance = functional.mse_loss(outputs[:, 0], size * X[:, 0])
            (functional.cross_entropy(outputs[:, 1:], labels) + factor * distance).backward()
            optimizer.step()
    terms = {term.function: term for term in monitor.measurements[0].terms}
    assert terms["mse_loss"].part == pytest.approx(factor * terms["mse_loss"].value)
    assert [rule for rule in loud(monitor.diagnosis()) if rule not in ("US604", "US301")] == expected


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


@pytest.mark.parametrize(
    "error", [functional.mse_loss, lambda y, x: ((y - x) ** 2).mean()], ids=["function", "by hand"]
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


SQUARED = nn.MSELoss()


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        (lambda y, x: -SQUARED(y, x), ["US611"]),
        (lambda y, x: -0.5 * ((y - x) ** 2).mean(), ["US611"]),
        (SQUARED, []),
        (lambda y, x: 1 - SQUARED(y, x), []),
        (lambda y, x: y.abs().mean() - SQUARED(y, x), []),
        (lambda y, x: -functional.cosine_similarity(y, x).mean(), []),
    ],
    ids=["function", "by hand", "positive", "one minus", "a term of two", "similarity"],
)
def test_a_loss_that_is_maximised(loss_fn, expected):
    targets = torch.tanh(X.roll(1, 0))
    assert loud(unstuck.diagnose(mlp(64), (X,), targets, loss_fn)) == expected


@pytest.mark.parametrize(
    ("factors", "expected"),
    [((-1.0,), ["US611"]), ((-1.0, -0.5), []), ((-1.0, 1.0), [])],
    ids=["always", "returns", "in turn"],
)
def test_a_sign_that_stays_while_the_loss_grows(factors, expected):
    model, labels = mlp(10), X[:, :10].argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with unstuck.Monitor(model, every=1) as monitor:
        for i in range(12):
            optimizer.zero_grad()
            (factors[i % len(factors)] * functional.cross_entropy(model(X), labels)).backward()
            optimizer.step()
    assert loud(monitor.diagnosis()) == expected


def test_a_loss_that_an_adversary_keeps_level_is_no_mistake():
    model, labels = mlp(10), X[:, :10].argmax(1)
    adversary = torch.optim.SGD(model[2].parameters(), lr=1.0)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=1e-3)
    with unstuck.Monitor(model[0], every=1) as monitor:
        for _ in range(12):
            adversary.zero_grad()
            functional.cross_entropy(model(X), labels).backward()
            adversary.step()
            optimizer.zero_grad()
            (-functional.cross_entropy(model(X), labels)).backward()
            optimizer.step()
    assert "US611" not in loud(monitor.diagnosis())
