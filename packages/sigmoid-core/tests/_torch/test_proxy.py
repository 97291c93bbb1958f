"""Traced forwards may call functions that also take a number as their first argument."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 3), nn.Linear(3, 1), function

    def forward(self, x):
        return self.last(torch.tanh(self.function(self.first(x))))


@pytest.mark.parametrize(
    "function",
    [lambda x: torch.pow(x, 2), lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.remainder(x, 2)],
    ids=["pow", "where", "remainder"],
)
def test_they_do_not_end_the_program_and_the_model_is_converted(function):
    model, x, pow_ = Calls(function), torch.randn(5, 3), torch.pow
    before = model(x)
    assert sc.convert(model).converted == ("tanh",)
    torch.testing.assert_close(model(x), before)
    assert torch.pow is pow_
