"""Unusual loops and forward passes that learn: passes for other purposes, choices at random, weights from elsewhere."""

import random
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from unstuck_support.layers import loud

import unstuck
from unstuck.findings import Severity

X, Y = torch.randn(64, 8), torch.randint(4, (64,))
OWN = torch.Generator()


def mlp():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def looped(step, model=None, steps=40, every=5, rate=0.1):
    """What a Monitor says of a training by `step(model, optimizer)`."""
    model = model or mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with unstuck.Monitor(model, every=every) as monitor:
        for _ in range(steps):
            step(model, optimizer)
    return monitor.diagnosis()


def usual(model, optimizer, inputs=X, targets=Y):
    optimizer.zero_grad()
    functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def attacked(model, optimizer):
    inputs = X.clone()
    for _ in range(3):
        inputs = inputs.detach().requires_grad_()
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), Y).backward()
        inputs = inputs + 0.01 * inputs.grad.sign()
    usual(model, optimizer, inputs.detach())


def perturbed(model, optimizer):
    weight = model[0].weight
    before = weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(model(X), Y).backward()
        weight.data += 0.01 * weight.grad / weight.grad.norm()
    optimizer.zero_grad()
    functional.cross_entropy(model(X), Y).backward()
    weight.data.copy_(before)
    optimizer.step()


def collected(batches):
    """Gradients of several batches that are kept, and summed for the step."""

    def step(model, optimizer):
        sums = [torch.zeros_like(p) for p in model.parameters()]
        for rows in torch.arange(64).chunk(batches):
            optimizer.zero_grad()
            functional.cross_entropy(model(X[rows]), Y[rows]).backward()
            for total, p in zip(sums, model.parameters(), strict=True):
                total += p.grad
        for total, p in zip(sums, model.parameters(), strict=True):
            p.grad = total / batches
        optimizer.step()

    return step


@pytest.mark.parametrize("step", [attacked, perturbed, collected(4), collected(16)])
def test_passes_whose_gradients_have_another_purpose_are_not_wasted(step):
    assert loud(looped(step)) == []


def test_passes_whose_gradients_are_thrown_away_are():
    def step(model, optimizer):
        for rows in torch.arange(64).chunk(4):
            optimizer.zero_grad()
            functional.cross_entropy(model(X[rows]), Y[rows]).backward()
        optimizer.step()

    assert loud(looped(step)) == ["US306"]


@pytest.mark.parametrize(("life", "expected"), [(25, []), (4, ["US308"])])
def test_an_optimizer_for_each_phase_is_made_once_for_its_steps(life, expected):
    model = mlp()
    with unstuck.Monitor(model, every=5) as monitor:
        for step in range(100):
            if step % life == 0:
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
            usual(model, optimizer)
    assert loud(monitor.diagnosis()) == expected


def test_weights_that_another_computes_are_none_of_this_model():
    model = mlp()
    own = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(own.values(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with unstuck.Monitor(model, every=5) as monitor:
            for _ in range(20):
                optimizer.zero_grad()
                computed = {name: 1.0 * p for name, p in own.items()}
                functional.cross_entropy(functional_call(model, computed, X), Y).backward()
                optimizer.step()
    assert loud(monitor.diagnosis()) == []


class Chooses(nn.Module):
    """Draws noise or a layer, also in evaluation mode, from generators other than PyTorch's."""

    def __init__(self, draw):
        super().__init__()
        self.first, self.last, self.draw = nn.Linear(8, 8), nn.Linear(8, 4), draw

    def forward(self, x):
        return self.last(torch.relu(self.first(x)) * self.draw())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: random.choice([0.5, 1.5]),
        random.random,
        lambda: 1 + 0.1 * torch.randn((), generator=OWN),
    ],
    ids=["a choice", "a number", "its own generator"],
)
def test_what_a_model_draws_by_itself_mixes_no_samples(draw):
    state = random.getstate()
    for _ in range(4):
        assert loud(unstuck.diagnose(Chooses(draw), X, Y, functional.cross_entropy)) == []
    random.setstate(state)


class Settles(nn.Module):
    """Iterates until the whole batch changes little."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        nn.init.orthogonal_(self.again.weight, 0.8)

    def forward(self, x):
        x = self.first(x)
        with torch.no_grad():
            state, before = torch.zeros_like(x), None
            while before is None or (state - before).norm() > 3e-4 * state.norm():
                state, before = torch.tanh(x + self.again(state)), state
        return self.last(torch.tanh(x + self.again(state)))


@pytest.mark.parametrize("seed", [1, 3])
def test_an_iteration_that_stops_for_the_whole_batch_mixes_no_samples(seed):
    torch.manual_seed(seed)
    assert loud(unstuck.diagnose(Settles(), X, Y, functional.cross_entropy)) == []


@pytest.mark.parametrize(
    ("images", "expected"),
    [(torch.randn(1, 3, 8, 8).expand(60, 3, 8, 8), []), (3 * torch.randn(60, 3, 1, 1), ["US509"])],
    ids=["one image", "images that differ"],
)
def test_batches_of_one_sample_are_normalised_as_in_use_if_all_are_alike(images, expected):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    images = images + 0.1 * torch.randn(1, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with unstuck.Monitor(model, every=3, trials=True) as monitor:
        for image in images:
            optimizer.zero_grad()
            functional.mse_loss(model(image[None]), image[None]).backward()
            optimizer.step()
    assert [rule for rule in loud(monitor.diagnosis(seconds=0)) if rule == "US509"] == expected


class ActorCritic(nn.Module):
    """Two networks, of which a call uses one."""

    def __init__(self):
        super().__init__()
        self.actor, self.critic = mlp(), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.actor(x)


def test_networks_that_steps_between_the_measured_ones_move_are_trained():
    model = ActorCritic()
    actor, critic = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.actor, model.critic))
    with unstuck.Monitor(model, every=5) as monitor:
        for _ in range(40):
            model.zero_grad()
            model.critic(X).square().mean().backward()
            critic.step()
            model.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            actor.step()
    assert loud(monitor.diagnosis()) == []


@pytest.mark.parametrize(("steps", "severity"), [(100, Severity.NOTE), (20, Severity.WARNING)])
def test_linear_layers_in_a_row_are_a_note_once_they_fit_the_data(steps, severity):
    model, targets = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4)), X @ torch.randn(8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with unstuck.Monitor(model, every=5) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            functional.mse_loss(model(X), targets).backward()
            optimizer.step()
    assert [f.severity for f in monitor.diagnosis().findings if f.rule == "US507"] == [severity]


class Affine(torch.autograd.Function):
    """A linear layer, as in PyTorch's page on extensions of autograd."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x, gradient.sum(0)


class Hidden(nn.Linear):
    """Hides its gradient from who listens to tensors."""

    def forward(self, x):
        return Affine.apply(x, self.weight, self.bias)


def test_gradients_behind_a_custom_function_are_cleared():
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), Hidden(32, 4))
    assert loud(looped(usual, model, every=1)) == []


class Discrimination(nn.Module):
    """Each item has a difficulty and a factor, which starts at 1."""

    def __init__(self):
        super().__init__()
        self.ability, self.difficulty, self.factor = nn.Embedding(32, 1), nn.Embedding(16, 1), nn.Embedding(16, 1)
        nn.init.ones_(self.factor.weight)

    def forward(self, people, items):
        return self.factor(items) * (self.ability(people) - self.difficulty(items))


def test_an_embedding_may_start_as_a_constant():
    people, items = torch.arange(64) % 32, torch.arange(64) % 16
    right = (torch.rand(64, 1) > 0.5).float()
    loss = functional.binary_cross_entropy_with_logits
    assert loud(unstuck.diagnose(Discrimination(), (people, items), right, loss)) == []


def test_a_last_batch_that_is_small_says_little_of_the_statistics():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for rows in [*([torch.arange(64)] * 40), torch.arange(2)]:
            usual(model, optimizer, 3 * X[rows], Y[rows])
    mean, running = model[0](3 * X[:2]).mean(0), model[1].running_mean
    assert (mean - running).square().mean() > model[0](3 * X[:2]).var(0, correction=0).mean()
    assert loud(monitor.diagnosis(seconds=0)) == []


def test_the_loss_of_a_discriminator_that_reads_detached_outputs_is_none_of_the_generator():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), nn.Sigmoid())
    optimizers = [torch.optim.Adam(m.parameters(), lr=2e-4) for m in (critic, generator)]
    zeros, ones = torch.zeros(64, 1), torch.ones(64, 1)
    with unstuck.Monitor(generator, every=1) as monitor:
        for _ in range(12):
            fake = generator(torch.randn(64, 8))
            critic.zero_grad()
            functional.binary_cross_entropy(critic(torch.randn(64, 2) + 1), ones).backward()
            functional.binary_cross_entropy(critic(fake.detach()), zeros).backward()
            optimizers[0].step()
            generator.zero_grad()
            functional.binary_cross_entropy(critic(fake), ones).backward()
            optimizers[1].step()
    assert "US605" not in loud(monitor.diagnosis())
    assert [layer.name for layer in monitor.measurements[-1].layers] == ["0", "1", "2"]


class Masked(nn.Module):
    """Chooses one of the actions that are allowed."""

    def __init__(self):
        super().__init__()
        self.scores = mlp()

    def forward(self, x, allowed):
        return self.scores(x).masked_fill(~allowed, -torch.inf)


class Swinging(nn.Module):
    """Computes each sample for itself, and returns the steps first."""

    def __init__(self, stiffness=1.0):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness))

    def forward(self, x, v):
        places = []
        for _ in range(40):
            v = v - 0.1 * self.stiffness * x
            x = x + 0.1 * v
            places.append(x)
        return torch.stack(places)


class Reservoir(nn.Module):
    """Reads one sequence of steps."""

    def __init__(self):
        super().__init__()
        self.own, self.read, self.last = nn.Parameter(torch.eye(8) / 2), nn.Parameter(torch.ones(8, 1)), nn.Linear(8, 1)

    def forward(self, steps):
        states = [torch.zeros(8)]
        for step in steps:
            states.append(torch.tanh(self.own @ states[-1] + self.read @ step))
        return self.last(torch.stack(states[1:]))


LINE = torch.linspace(-1, 1, 500)[:, None]
CURVE = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
ALLOWED = torch.ones(64, 4, dtype=torch.bool).index_fill(1, torch.tensor([3]), False)
PLACES = (torch.rand(8) + 1, torch.rand(8))
HEALTHY = {
    "masked": (Masked(), (X, ALLOWED), X[:, :3].argmax(1), functional.cross_entropy, 0.1),
    "in order": (CURVE, (LINE,), (3 * LINE).sin(), functional.mse_loss, 0.03),
    "steps first": (Swinging(), PLACES, Swinging(2.0)(*PLACES).detach(), functional.mse_loss, 0.01),
    "one sequence": (Reservoir(), (LINE[:20],), LINE[1:21], functional.mse_loss, 0.01),
}


@pytest.mark.parametrize(("model", "inputs", "targets", "loss", "rate"), HEALTHY.values(), ids=list(HEALTHY))
def test_inputs_and_outputs_of_unusual_form_are_healthy(model, inputs, targets, loss, rate):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with unstuck.Monitor(model, every=40, trials=True) as monitor:
        for _ in range(200):
            optimizer.zero_grad()
            loss(model(*inputs), targets).backward()
            optimizer.step()
    assert [rule for rule in loud(monitor.diagnosis(seconds=0)) if rule in ("US506", "US703", "US704")] == []
