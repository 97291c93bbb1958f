"""Networks whose layers mix two encodings U and V of the inputs: the modified MLP, and PirateNets."""

import torch
from torch import Tensor, nn

from peers.weights import initialised
from physics.methods.factorised import FactorisedLinear
from physics.methods.method import Method
from physics.methods.waves import FourierFeatures

SCALE = 2.0
"""Deviation of the frequencies of PirateNets' features."""


class ModifiedMLP(nn.Module):
    """H_1 = tanh(layer(x)); H_k+1 = (1 - Z) U + Z V with Z = tanh(layer(H_k)); Glorot's weights."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.first = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, outputs)
        initialised(self, nn.init.xavier_normal_)

    def forward(self, x: Tensor) -> Tensor:
        u, v = torch.tanh(self.u(x)), torch.tanh(self.v(x))
        h = torch.tanh(self.first(x))
        for layer in self.hidden:
            h = torch.lerp(u, v, torch.tanh(layer(h)))
        out: Tensor = self.last(h)
        return out


class PirateBlock(nn.Module):
    """alpha h + (1 - alpha) x of three layers, two of which mix U and V; alpha is trained and begins as 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f, self.g, self.h = (FactorisedLinear(width, width) for _ in range(3))
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        z = torch.lerp(v, u, torch.tanh(self.f(x)))
        z = torch.lerp(v, u, torch.tanh(self.g(z)))
        return torch.lerp(x, torch.tanh(self.h(z)), self.alpha)


class PirateNet(nn.Module):
    """Fourier features, then blocks of three layers, as many as come next to `depth` layers; factorised weights.

    The paper's start from data, a last layer by least squares, is left out: other methods have no such start.
    """

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.features = FourierFeatures(inputs, width, SCALE)
        self.u, self.v = FactorisedLinear(width, width), FactorisedLinear(width, width)
        self.blocks = nn.ModuleList(PirateBlock(width) for _ in range(max(1, round(depth / 3))))
        self.last = FactorisedLinear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        u, v = torch.tanh(self.u(x)), torch.tanh(self.v(x))
        for block in self.blocks:
            x = block(x, u, v)
        out: Tensor = self.last(x)
        return out


METHODS = (
    Method(
        "modified-mlp",
        "Wang, Teng and Perdikaris (2021), arXiv 2001.04536",
        lambda points, *sizes: ModifiedMLP(points.shape[1], *sizes),
    ),
    Method(
        "piratenet",
        "Wang, Li, Chen and Perdikaris (2024), arXiv 2402.00326",
        lambda points, *sizes: PirateNet(points.shape[1], *sizes),
    ),
)
