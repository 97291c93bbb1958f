"""SC201 knows the places of norms: in converted models, and in models with a Dynamic Tanh of their own."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc


class DynamicTanh(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.alpha, self.weight = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        return torch.tanh(self.alpha * x) * self.weight + self.bias


@pytest.mark.parametrize("converted", [True, False])
def test_a_place_with_too_large_an_alpha_is_found_and_one_with_the_right_alpha_is_not(converted):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), DynamicTanh(32), nn.Linear(32, 2))
    batch = torch.randn(64, 8), torch.randint(2, (64,)), nn.functional.cross_entropy
    assert sc.diagnose(model, *batch).healthy
    with torch.no_grad():
        model[1].alpha.fill_(100.0)
    name = "1.tanh"
    if converted:
        name = "1.core"
        sc.convert(model, norms=True)
    (finding,) = sc.diagnose(model, *batch).findings
    assert (finding.rule, finding.layers) == ("SC201", (name,))
    if converted:
        sc.calibrate(model, batch[0], saturation=0.5)
        assert sc.diagnose(model, *batch).healthy
