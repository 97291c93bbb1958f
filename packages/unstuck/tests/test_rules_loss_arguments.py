"""US309, US601: terms of a loss that lost their graph, values that a policy moves, probabilities."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn import functional

import unstuck
from unstuck.findings import Severity
from unstuck.rules import Evidence
from unstuck.rules.standstill import of_a_policy

X, RETURNS = torch.randn(64, 6), torch.randn(64)
LABELS = torch.arange(64) % 10


def found(loss, outputs=11, model=None):
    """Errors and warnings of a small network and a loss of its outputs."""
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, outputs))
    findings = unstuck.diagnose(model, X, RETURNS, lambda outputs, _targets: loss(outputs)).findings
    return [f.rule for f in findings if f.severity is not Severity.NOTE]


def teacher_and(student):
    teacher = torch.randn(64, 11)

    def loss(outputs):
        soft = functional.kl_div(student(outputs, teacher).log_softmax(1), teacher.softmax(1), reduction="batchmean")
        return functional.cross_entropy(outputs, LABELS) + 0.5 * soft

    return loss


def surrogate(log_probability):
    def loss(outputs):
        chosen = outputs[:, :10].log_softmax(1).gather(1, LABELS[:, None])[:, 0]
        ratio = (log_probability(chosen) - chosen.detach()).exp()
        policy = -torch.min(ratio * RETURNS, ratio.clamp(0.8, 1.2) * RETURNS).mean()
        return 0.5 * functional.mse_loss(outputs[:, 10], RETURNS) + policy

    return loss


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (teacher_and(lambda outputs, teacher: teacher), ["US601"]),
        (teacher_and(lambda outputs, teacher: outputs), []),
        (surrogate(lambda chosen: chosen.detach()), ["US601"]),
        (surrogate(lambda chosen: torch.tensor(chosen.tolist()) + 0 * chosen), []),
        (surrogate(lambda chosen: chosen), []),
        (lambda o: functional.mse_loss(o[:, 0], RETURNS) + torch.zeros(()) + torch.zeros_like(o).mean(), []),
        (lambda o: functional.mse_loss(o[:, 0], RETURNS) * functional.l1_loss(RETURNS, 0 * RETURNS), []),
    ],
    ids=["teacher", "student", "cut ratio", "rebuilt", "ratio", "zeros", "factor"],
)
def test_a_term_of_the_loss_has_a_gradient(loss, expected):
    assert found(loss) == expected


LOG_PROBABILITIES = {
    "logits": lambda o: Categorical(logits=o[:, :10]).log_prob(LABELS),
    "probabilities": lambda o: Categorical(o[:, :10].softmax(1)).log_prob(LABELS),
    "gather first": lambda o: (o[:, :10].softmax(1).gather(1, LABELS[:, None])[:, 0] + 1e-8).log(),
    "cross entropy": lambda o: -functional.cross_entropy(o[:, :10], LABELS, reduction="none"),
    "binary": lambda o: Bernoulli(logits=o[:, 0]).log_prob((LABELS > 4).float()),
    "normal": lambda o: Normal(o[:, :2], o[:, 2:4].exp()).log_prob(torch.zeros(64, 2)).sum(1),
}


@pytest.mark.parametrize("log_probability", LOG_PROBABILITIES.values(), ids=LOG_PROBABILITIES)
def test_the_loss_of_a_policy_does_not_move_the_value(log_probability):
    def loss(advantage):
        def of(outputs):
            value = outputs[:, 10]
            policy = -(log_probability(outputs) * advantage(value)).mean()
            return policy + functional.huber_loss(value, RETURNS)

        return of

    assert found(loss(lambda value: RETURNS - value)) == ["US309"]
    assert found(loss(lambda value: RETURNS + 0.9 * value.roll(1).detach() - value)) == ["US309"]
    assert found(loss(lambda value: RETURNS - value[:, None].expand(-1, 2).sum(1))) == ["US309"]
    assert found(loss(lambda value: RETURNS - value.detach())) == []
    assert found(loss(lambda value: value)) == []


@pytest.mark.parametrize("log_probability", LOG_PROBABILITIES.values(), ids=LOG_PROBABILITIES)
def test_the_loss_of_a_policy_is_known_by_what_it_weighs_by(log_probability):
    def is_policy(weight, parts=1):
        def loss(outputs, _targets):
            chosen = torch.stack([log_probability(part) for part in outputs.expand(parts, *outputs.shape)])
            value = functional.huber_loss(outputs[:, 10], RETURNS)
            return value - 0.5 * (chosen * weight(outputs[:, 10])).mean()

        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 11))
        measured = unstuck.diagnose(model, X, RETURNS, loss, trials=False).measurement
        return Evidence([measured]).ask(of_a_policy) is not None

    assert is_policy(lambda value: (RETURNS - value).detach(), 3)
    assert is_policy(lambda value: (RETURNS - value.detach()) / 9)
    assert not is_policy(lambda value: RETURNS > 0)
    assert not is_policy(lambda value: RETURNS - value)


def test_a_likelihood_and_a_focal_loss_have_factors_with_gradients():
    def likelihood(outputs):
        error = (outputs[:, 0] - RETURNS) ** 2
        return (error * (-outputs[:, 1]).exp() + outputs[:, 1]).mean()

    def focal(outputs):
        chosen = outputs.log_softmax(1).gather(1, LABELS[:, None])[:, 0]
        return -((torch.ones(64) - chosen.exp()) * chosen).mean()

    assert found(likelihood) == found(focal) == []


@pytest.mark.parametrize(("keeps", "expected"), [(True, []), (False, ["US601"])])
def test_a_penalty_of_gradients_needs_their_graph(keeps, expected):
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 11))

    def loss(outputs):
        points = X.clone().requires_grad_()
        (slopes,) = torch.autograd.grad(model(points).sum(), points, create_graph=keeps)
        return functional.mse_loss(outputs[:, 0], RETURNS) + slopes.square().mean()

    assert found(loss, model=model) == expected
