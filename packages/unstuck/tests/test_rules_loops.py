"""What loops do wrong: schedules, evaluation mode, copies of networks and states that are cut."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import loud

import unstuck

X, Y = torch.randn(128, 64), torch.randint(10, (128,))
FALLING = [2.3 * 0.9**i for i in range(12)]


def monitored(model, loss_of, parameters=None, between=lambda step: None, steps=6):
    optimizer = torch.optim.SGD(parameters or list(model.parameters()), lr=0.01)
    with unstuck.Monitor(model, every=1) as monitor:
        for step in range(steps):
            between(step)
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    return monitor.diagnosis()


@pytest.mark.parametrize(("mode", "expected"), [(nn.Module.eval, ["US509"]), (nn.Module.train, [])])
def test_a_model_that_stays_in_evaluation_mode_after_a_validation(mode, expected):
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    def validate(step):
        if step == 2:
            mode(model)

    found = monitored(model, lambda m: functional.cross_entropy(m(X), Y), between=validate)
    assert loud(found) == expected


def test_norms_that_are_frozen_in_a_model_that_trains_are_meant():
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    found = monitored(model, lambda m: functional.cross_entropy(m(X), Y), between=lambda step: model[1].train(step < 2))
    assert loud(found) == []


class Values(nn.Module):
    def __init__(self):
        super().__init__()
        self.values = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.target = copy.deepcopy(self.values)

    def forward(self, x):
        return self.values(x)


def bootstrapped(model):
    return functional.mse_loss(model(X), model.target(X.roll(1, 0)).detach())


def test_a_target_network_that_no_optimizer_moves_is_a_note():
    model = Values()
    assert loud(unstuck.diagnose(model, (X,), Y, lambda o, y: bootstrapped(model))) == []
    assert loud(monitored(model, bootstrapped, list(model.values.parameters()))) == []
    assert loud(monitored(model, bootstrapped)) == ["US501"]


def test_gradients_that_are_emptied_before_the_step_are_named_by_the_remedy():
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(6):
            functional.cross_entropy(model(X), Y).backward()
            optimizer.zero_grad()
            optimizer.step()
    (finding,) = (f for f in monitor.diagnosis().findings if f.rule == "US301")
    assert "not between it and `optimizer.step()`" in finding.remedy
