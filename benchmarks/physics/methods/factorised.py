"""Random weight factorisation: every neuron's weights are a vector times exp of a trained number."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from physics.methods.method import Method

MEAN, DEVIATION = 1.0, 0.1
"""Of the numbers at the start; the paper takes 0.5 or 1, and 0.1."""


class FactorisedLinear(nn.Module):
    """(exp(s) v) x + b for each neuron, where exp(s) v begin as Glorot's weights and s are N(MEAN, DEVIATION^2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.s = nn.Parameter(MEAN + DEVIATION * torch.randn(outputs))
        weight = nn.init.xavier_normal_(torch.empty(outputs, inputs))
        self.v = nn.Parameter(weight / self.s.detach().exp().unsqueeze(1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.s.exp().unsqueeze(1) * self.v, self.bias)


def build(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """Tanhs."""
    sizes = [points.shape[1], *[width] * depth]
    layers = [m for a, b in pairwise(sizes) for m in (FactorisedLinear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, FactorisedLinear(width, outputs))


_SOURCE = "Wang, Wang, Seidman and Perdikaris (2022), arXiv 2210.01274"
METHODS = (Method("weight-factorisation", _SOURCE, build),)
