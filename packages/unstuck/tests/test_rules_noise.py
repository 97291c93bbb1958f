"""US711: what a denoiser reads beside the noise that it is asked for."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck

ROWS = 128


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, noisy, time):
        return self.body(torch.cat([noisy, time[:, None].float()], 1))


def messages(mixed, *, draw=torch.randn_like, times=torch.rand, wanted=lambda data, noise: noise):
    """What US711 says after fifteen steps on `mixed(data, noise, time)`."""
    torch.manual_seed(0)
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(15):
            data = torch.tensor([[2.0, 0.0], [0.0, -1.0]])[torch.randint(2, (ROWS,))] + 0.1 * torch.randn(ROWS, 2)
            noise, time = draw(data), times(ROWS)
            optimizer.zero_grad()
            read = mixed(data, noise, time[:, None])
            functional.mse_loss(model(read, time), wanted(data, noise)).backward()
            optimizer.step()
    return [finding.message for finding in monitor.diagnosis(seconds=0).findings if finding.rule == "US711"]


def preserving(data, noise, time, most=1.0):
    return (1 - most * time).sqrt() * data + (most * time).sqrt() * noise


def steps(rows):
    return torch.randint(50, (rows,))


@pytest.mark.parametrize(
    ("mixed", "options"),
    [
        (preserving, {}),
        (lambda data, noise, time: preserving(data, noise, 1 - time), {}),  # time runs backwards
        (lambda data, noise, time: (1 - time) * data + time * noise, {}),
        (lambda data, noise, time: data + 20 * time * noise, {}),
        (lambda data, noise, time: preserving(data, noise, (time + 1) / 50), {"times": steps}),
        (lambda data, noise, time: (1 - time) * data + time * noise, {"wanted": lambda data, noise: noise - data}),
        (lambda data, noise, time: data + 0.3 * noise, {}),  # of one level, as to clean images
    ],
    ids=["usual", "backwards", "linear", "exploding", "steps", "flow", "one level"],
)
def test_schedules_that_end_with_noise_and_other_tasks_are_healthy(mixed, options):
    assert messages(mixed, **options) == []


@pytest.mark.parametrize(
    ("mixed", "options", "word"),
    [
        (lambda data, noise, time: preserving(data, noise, time, 0.3), {}, "only"),
        (lambda data, noise, time: preserving(data, noise, time / 250), {"times": steps}, "only"),
        (preserving, {"draw": torch.rand_like}, "uniform"),
        (lambda data, noise, time: preserving(0.02 * data, noise, time), {}, "At all times"),
    ],
    ids=["too little", "too few steps", "uniform", "small data"],
)
def test_noise_that_does_not_fit_is_named(mixed, options, word):
    (message,) = messages(mixed, **options)
    assert word in message
