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


def trained(model, loss_of, steps=3):
    """The diagnosis of some steps that are recorded."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(model(X)).backward()
            optimizer.step()
    return monitor.diagnosis(0)


def rest(outputs):
    return 100 * outputs.abs().mean()


def in_place(x):
    x *= 0.01
    return x.sum()


@pytest.mark.parametrize(
    "part",
    [
        *(
            lambda y, s=s: 7 * (torch.arange(128)[:, None] * s(X - y)).sum(1).mean()
            for s in (torch.square, lambda d: d * d)
        ),
        *(lambda y, s=s: s(X - y).mean() for s in (lambda d: d**2, lambda d: torch.pow(d, 2).flatten(1))),
        *(
            lambda y, s=s: 3 * s(functional.mse_loss(y, X, reduction="none"))
            for s in (lambda x: x.sum(1).mean(), lambda x: (x * (x > 0)).sum() / 7, in_place)
        ),
        lambda y: (y - X.view(128, 8, 8).flatten(1)).square().sum(),
    ],
    ids=["square", "product", "power", "reshaped", "sum", "masked", "inside", "view of the inputs"],
)
def test_a_term_adds_its_part_whatever_its_weights(part):
    model = mlp(64)
    start, first = part(model(X)).item(), rest(model(X)).item()
    diagnosis = trained(model, lambda y: part(y) + rest(y))
    (term,) = diagnosis.measurement.answers["comparing_terms"]
    end, last = part(model(X)).item(), rest(model(X)).item()
    assert term["shares"] == pytest.approx([start / (start + first), end / (end + last)], rel=1e-4)
    assert term["rest"] == pytest.approx(last / first, rel=1e-2)
    outputs = model(X).detach()
    varied = (outputs - outputs.mean(0)).norm() / (X - X.mean(0)).norm()
    assert term["varied"] == pytest.approx(varied.item(), rel=1e-4)


@pytest.mark.parametrize("made", [torch.exp, torch.square, lambda x: (x + 1).log()], ids=["exp", "square", "log"])
def test_what_is_no_sum_of_the_numbers_of_a_loss_function_is_no_part_of_it(made):
    diagnosis = trained(mlp(64), lambda y: made(functional.mse_loss(y, X, reduction="none").mean(1)).mean())
    assert diagnosis.measurement.added == ()
    assert "comparing_terms" not in diagnosis.measurement.answers


def test_whole_numbers_that_are_inputs_and_labels_are_no_reconstruction():
    class Copy(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(8, 8)

        def forward(self, x):
            return self.table(x)

    model, ids = Copy(), torch.arange(128) % 8
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        functional.cross_entropy(model(ids), ids).backward()
        optimizer.step()
    (term,) = monitor.diagnosis(0).measurement.answers["comparing_terms"]
    assert term["function"] == "cross_entropy"
    assert "varied" not in term


def test_the_loss_functions_that_a_loss_adds_up_are_named():
    diagnosis = trained(mlp(64), lambda y: functional.mse_loss(y, X) + functional.l1_loss(y, X))
    assert diagnosis.measurement.loss_functions == "mse_loss, l1_loss"


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
    with unstuck.Monitor(model, every=10, trials=True) as monitor:
        for _ in range(130):
            optimizer.zero_grad()
            penalty = encoder(X).square().sum(1).mean()
            (error(model(X), X) + factor * penalty).backward()
            optimizer.step()
    assert [rule for rule in loud(monitor.diagnosis(0)) if rule != "US507"] == expected
