"""Networks of sines, and random Fourier features of the inputs."""

import math

import torch
from torch import Tensor, nn

from physics.methods.method import Method
from physics.methods.plain import sequence

FREQUENCY = 30.0
"""omega of SIREN."""
SIGMA = 1.0
"""Deviation of the frequencies of the features, over inputs within -1 and 1; the paper tries 1 to 50."""


class Sine(nn.Module):
    """sin(omega layer(x)): weights are uniform within 1 / fan_in in the first layer, else sqrt(6 / fan_in) / omega."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / FREQUENCY
        nn.init.uniform_(self.layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(FREQUENCY * self.layer(x))


def siren(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """The last layer has the weights of a hidden one."""
    hidden = [Sine(width, width, first=False) for _ in range(depth - 1)]
    last = nn.Linear(width, outputs)
    bound = math.sqrt(6 / width) / FREQUENCY
    nn.init.uniform_(last.weight, -bound, bound)
    return nn.Sequential(Sine(points.shape[1], width, first=True), *hidden, last)


class FourierFeatures(nn.Module):
    """cos(B x) and sin(B x) with frequencies B of N(0, `scale`^2), which are not trained: `features` in all."""

    frequencies: Tensor

    def __init__(self, inputs: int, features: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(inputs, features // 2))

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.frequencies
        return torch.cat([z.cos(), z.sin()], -1)


def fourier(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """As many features as neurons, then a network of tanhs with Glorot's weights."""
    features = FourierFeatures(points.shape[1], width, 2 * math.pi * SIGMA)
    return nn.Sequential(features, sequence(width, width, depth, outputs, nn.Tanh))


METHODS = (
    Method("siren", "Sitzmann et al. (2020), arXiv 2006.09661", siren, (0.0001, 0.0003, 0.001)),
    Method("fourier-features", "Tancik et al., arXiv 2006.10739; Wang et al., arXiv 2012.10047", fourier),
)
