"""Residual layers of cores behind trained waves: the parts of `PhysicsMLP`. Parameters are divided by their rates."""

import torch
from torch import Tensor, nn

from sigmoidcore._torch.modules import registered, runs_plainly
from sigmoidcore.core import PRECISE, SigmoidCore
from sigmoidcore.nn.fused import parameters_of
from sigmoidcore.nn.rows import fit

RATE, OF_WAVES, DEEP = 10.0, 3.0, 8  # factors of Adam's rate, and of that of waves; layers from which on they share it
FREQUENCY, HIDDEN = 2.0, 0.1  # at the start: deviation of the angular frequencies; gain of the residual weights


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
        self.register_buffer("quarter", torch.arange(features) // pairs * (torch.pi / 2))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the waves."""
        waves, quarter = self.waves * (RATE * OF_WAVES), self.quarter
        waves = torch.cat([waves, waves[:-1] if len(quarter) % 2 else waves])
        return torch.sin(nn.functional.linear(input, waves, quarter))


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
        return input.add(self.core(self.linear(input)))


def run(network: nn.Sequential, x: Tensor) -> Tensor:
    """Apply waves, residual layers and a Linear; slopes and shifts go into weights and biases if nothing watches.

    A layer is h + tanh(W' h + b') with W' = slope/2 W and b' = slope/2 (b - shift), made for all layers at once.
    """
    waves, *layers, last = network
    linears, cores = registered(layers, "linear"), registered(layers, "core")
    each, width = zip(layers, linears, cores, strict=True), getattr(last, "in_features", None)
    plain = runs_plainly(x) and x.dtype in PRECISE
    fits = plain and all(type(a) is ResidualLayer and fit(b, c, width) and c.scale == 2 for a, b, c in each)
    parameters = parameters_of(linears, [network, *layers, *cores], x) if fits else None
    if parameters is None:
        return network(x)  # type: ignore[no-any-return]
    weights, biases = torch.stack(parameters[: len(layers)]), torch.stack(parameters[len(layers) :])
    half, shifts = torch.stack(registered(cores, "slope")) / 2, torch.stack(registered(cores, "shift"))
    h = waves(x)
    for weight, bias in zip(weights * half.unsqueeze(-1), (biases - shifts) * half, strict=True):
        h = h + nn.functional.linear(h, weight, bias).tanh_()
    return last(h)  # type: ignore[no-any-return]


def orthogonal(inputs: int, outputs: int, gain: float, rate: float = RATE) -> nn.Linear:
    """A layer with orthogonal weights of this gain and biases of 0, both divided by a rate."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain / rate)
    nn.init.zeros_(layer.bias)
    return layer
