"""Residual layers of cores behind trained waves: the parts of `PhysicsMLP`.

Every part divides its parameters by `RATE`, and undoes that in its result: Adam's 0.001 then changes the function as
0.001 * RATE would.
"""

import math

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore

RATE, OF_WAVES = 10.0, 3.0
"""What Adam's rate is multiplied by, and that of the waves in addition (benchmarks/README.md)."""
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
        self.register_buffer("quarter", torch.arange(features) // pairs * (math.pi / 2), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the waves."""
        waves = torch.cat([self.waves, self.waves])[: len(self.quarter)] * (RATE * OF_WAVES)
        return torch.sin(nn.functional.linear(input, waves, self.quarter))


class ResidualLayer(nn.Module):
    """x + core(linear(x)), [..., features] to the same: small orthogonal weights, and a core that begins as tanh.

    It begins near the identity, so gradients have one size in all such layers, at any depth.

    Source:
        Layers that begin near the identity: Bachlechner et al. (2021), arXiv 2003.04887; for differential equations:
        Wang, Li, Chen, Perdikaris (2024), arXiv 2402.00326. Both multiply the branch by a gate that begins as 0.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = orthogonal(features, features, HIDDEN)
        self.core = SigmoidCore(features, alpha=2 * RATE, centered=True, scale=2.0)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        y: Tensor = input + self.core(self.linear(input))
        return y


def orthogonal(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A layer with orthogonal weights of this gain and no bias, both divided by RATE."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain / RATE)
    nn.init.zeros_(layer.bias)
    return layer
