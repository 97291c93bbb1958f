"""Targets and losses: shapes that broadcast, outputs that cannot reach the targets, softmax in the wrong place."""

import torch
from torch import nn

from real_failures.data import line, negative_error
from real_failures.program import Program, Training


def regression_with_flat_targets(repaired: bool) -> Training:
    inputs, targets = line()
    model = nn.Linear(4, 1)
    return Training(
        model,
        batch=lambda step: (inputs, targets[:, None] if repaired else targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        score=lambda model: negative_error(model, inputs, targets),
    )


PROGRAMS = [
    Program(
        name="linear regression, targets without the last dimension",
        source="https://github.com/pytorch/pytorch/issues/16045",
        symptom="a linear regression does not find the coefficients; the loss stops far from its minimum",
        explanation="outputs [n, 1] and targets [n] broadcast to [n, n] in the loss",
        causes=("targets broadcast",),
        make=regression_with_flat_targets,
        steps=60,
        margin=1.0,
    ),
]
