"""Residual layers of cores behind trained waves: the parts of `PhysicsMLP`. Parameters are divided by their rates."""

import math

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore

RATE, OF_WAVES, DEEP = 10.0, 3.0, 8
"""What multiplies Adam's rate, and that of waves in addition; the number of layers from which on they share it."""
FREQUENCY, HIDDEN = 2.0, 0.1
"""At the start: deviation of the angular frequencies, in a box from -1 to 1; gain of the weights of residual layers."""


class TrainedWaves(nn.Module):
    """Sines, then cosines, of waves that are trained: inputs [..., in_features], from -1 to 1, to [..., features].

    Source:
        Tancik et al. (2020), arXiv 2006.10739; for differential equations: Wang, Wang, Perdikaris (2021),
        arXiv 2012.10047; the frequencies, N(0, 2^2): Wang, Li, Chen, Perdikaris (2024), arXiv 2402.00326.
    """

    quarter: Tensor

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        pairs = (features + 1) // 2
        self.waves = nn.Parameter(torch.randn(pairs, in_features) * (FREQUENCY / RATE / OF_WAVES))
        self.register_buffer("quarter", torch.arange(features) // pairs * (math.pi / 2))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the waves."""
        waves = torch.cat([self.waves, self.waves])[: len(self.quarter)] * (RATE * OF_WAVES)
        return torch.sin(nn.functional.linear(input, waves, self.quarter))


class ResidualLayer(nn.Module):
    """x + core(linear(x)), [..., features] to the same: small orthogonal weights, and a core that begins as tanh.

    It begins near the identity, so gradients have one size in all such layers, at any depth. Of more than 8, each has
    its share of the rate: together they change the function as 8 would.

    Source:
        Layers that begin near the identity: Bachlechner et al. (2021), arXiv 2003.04887; for differential equations:
        Wang, Li, Chen, Perdikaris (2024), arXiv 2402.00326. Both multiply the branch by a gate that begins as 0.
    """

    def __init__(self, features: int, depth: int) -> None:
        super().__init__()
        rate = RATE * min(1.0, DEEP / depth)
        self.linear = orthogonal(features, features, HIDDEN, rate)
        self.core = SigmoidCore(features, alpha=2 * rate, centered=True, scale=2.0)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        y: Tensor = input + self.core(self.linear(input))
        return y


def orthogonal(inputs: int, outputs: int, gain: float, rate: float = RATE) -> nn.Linear:
    """A layer with orthogonal weights of this gain and biases of 0, both divided by a rate."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain / rate)
    nn.init.zeros_(layer.bias)
    return layer
