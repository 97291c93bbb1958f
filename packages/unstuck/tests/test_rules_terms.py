"""US609, US610: the terms of a loss and the weights of classes."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import loud

import unstuck
from unstuck.trials import edits

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


@pytest.mark.parametrize("made", [torch.exp, torch.square, lambda x: (x + 1).log()], ids=["exp", "square", "log"])
def test_what_is_no_sum_of_the_numbers_of_a_loss_function_is_no_part_of_it(made):
    diagnosis = trained(mlp(64), lambda y: made(functional.mse_loss(y, X, reduction="none").mean(1)).mean())
    assert diagnosis.measurement.added == ()
    assert "comparing_terms" not in diagnosis.measurement.answers


def test_the_loss_functions_that_a_loss_adds_up_are_named():
    diagnosis = trained(mlp(64), lambda y: functional.mse_loss(y, X) + functional.l1_loss(y, X))
    assert diagnosis.measurement.loss_functions == "mse_loss, l1_loss"


class Autoencoder(nn.Module):
    """A variational autoencoder, by hand or by distributions."""

    def __init__(self, by_distribution: bool):
        super().__init__()
        self.encoder, self.decoder, self.by_distribution = nn.Linear(64, 16), nn.Linear(8, 64), by_distribution

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, -1)
        if self.by_distribution:
            latent = torch.distributions.Normal(mean, (log_var / 2).exp())
            prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
            self.divergence = torch.distributions.kl_divergence(latent, prior).sum(-1).mean()
            return self.decoder(latent.rsample())
        self.divergence = (mean.square() + log_var.exp() - log_var - 1).sum(-1).mean() / 2
        noise = torch.randn(mean.shape).to(mean.device)
        return self.decoder(mean + noise * (log_var / 2).exp())


def autoencoded(inputs, factor, by_distribution=False):
    """The Monitor of 130 steps of an autoencoder, with a factor of its divergence."""
    torch.manual_seed(0)
    model = Autoencoder(by_distribution)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with unstuck.Monitor(model, every=10, trials=True) as monitor:
        for _ in range(130):
            optimizer.zero_grad()
            ((model(inputs) - inputs).square().mean() + factor * model.divergence).backward()
            optimizer.step()
    return monitor


@pytest.mark.parametrize("by_distribution", [False, True])
@pytest.mark.parametrize(("factor", "expected"), [(1.0, ["US609"]), (1e-3, [])], ids=["drowned", "small"])
def test_a_divergence_that_leaves_nothing_but_noise_in_the_latents(factor, expected, by_distribution):
    assert loud(autoencoded(X, factor, by_distribution).diagnosis(0)) == expected


def test_an_action_that_is_sampled_is_no_latent():
    """A policy's means hardly depend on its states at first, and its log-probability squares actions less means."""
    model, values = nn.Linear(64, 4), X[:, :2] @ torch.randn(2, 2)
    nn.init.zeros_(model.weight)

    def loss(outputs):
        policy = torch.distributions.Normal(*outputs.chunk(2, 1)[:1], outputs.chunk(2, 1)[1].exp())
        actions = policy.rsample()
        return functional.mse_loss(actions, values) + 0.1 * policy.log_prob(actions).mean()

    assert "informed_latents" not in trained(model, loss).measurement.answers


def test_a_weight_that_is_sampled_is_no_latent():
    class Bayesian(nn.Linear):
        def forward(self, x):
            sampled = self.weight + torch.randn_like(self.weight) * self.bias[:, None].exp()
            return functional.linear(x, sampled)

    model = Bayesian(64, 64)
    loss = lambda y: functional.mse_loss(y, X) + model.weight.square().sum()  # noqa: E731
    assert "informed_latents" not in trained(model, loss).measurement.answers


@pytest.mark.parametrize(
    "inputs", [X[:1].repeat(128, 1), X.unsqueeze(0).repeat(4, 1, 1)], ids=["one sample", "steps first"]
)
def test_latents_that_cannot_differ_in_the_first_dimension_are_no_noise(inputs):
    assert "US609" not in loud(autoencoded(inputs, 1e-3).diagnosis(0))


def test_only_without_the_divergence_it_is_proved_that_it_drowns_the_rest():
    monitor = autoencoded(X, 1.0)
    (found,) = [f for f in monitor.diagnosis(60).findings if f.rule == "US609"]
    removed = [edit for edit in edits.edits(monitor.recording) if "without the term" in edit.words]
    assert [edit.proves for edit in removed] == ["", "US609"]
    assert found.trial.edit == removed[1].words
