"""What loops do wrong: schedules, evaluation mode, copies of networks and states that are cut."""

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
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for step in range(steps):
            between(step)
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    return monitor.diagnosis(seconds=0)


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
