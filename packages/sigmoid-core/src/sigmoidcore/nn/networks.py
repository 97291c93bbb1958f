"""Networks of cores: an MLP of any depth, and the waves that its first layer may read."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.rows import Chain as Chain

FREQUENCY = 2.0
"""Standard deviation of the waves' angular frequencies for each input, in a box from -1 to 1; as in PirateNets."""


class MLP(Chain):
    """A plain multilayer perceptron: `depth` times Linear and activation, then Linear. No skips, no normalisation.

    Call `sigmoidcore.prepare(model, inputs)` before training.

    Args:
        in_features: number of inputs.
        width: neurons of each hidden layer.
        depth: number of hidden layers.
        out_features: number of outputs.
        activation: makes the activation of a layer from its width; default: a centered `SigmoidCore` of slope 4.
            Use `activation=lambda width: nn.Sigmoid()` for the plain network of the same weights.
        fourier: number of random waves that the first layer reads in the place of the inputs, see `FourierFeatures`.

    Shape:
        Input [batch, ..., in_features], output [batch, ..., out_features].

    Raises:
        ValueError: a size is not a whole number of at least 1.

    Example:
        >>> import torch
        >>> MLP(64, 32, 3, 10)(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        depth: int,
        out_features: int,
        *,
        activation: Callable[[int], nn.Module] | None = None,
        fourier: int = 0,
    ) -> None:
        check_sizes(in_features=in_features, width=width, depth=depth, out_features=out_features)
        make = activation or (lambda features: SigmoidCore(features, alpha=4.0, centered=True))
        layers: list[nn.Module] = [FourierFeatures(in_features, fourier)] if fourier else []
        for layer in range(depth):
            layers += [nn.Linear(width if layer else 2 * fourier or in_features, width), make(width)]
        super().__init__(*layers, nn.Linear(width, out_features))


class FourierFeatures(nn.Module):
    """Sines and cosines of random waves: inputs [..., in_features] to [..., 2 waves].

    `prepare` draws the waves for the box that its batch fills: if each input goes from -1 to 1, the frequencies are
    those of N(0, 2^2). They are buffers, and are not trained.

    Source:
        Tancik et al. (2020), arXiv 2006.10739; for differential equations: Wang, Wang, Perdikaris (2021),
        arXiv 2012.10047; the frequencies: Wang, Li, Chen, Perdikaris (2024), arXiv 2402.00326.
    """

    centre: Tensor
    waves: Tensor

    def __init__(self, in_features: int, waves: int) -> None:
        super().__init__()
        check_sizes(in_features=in_features, fourier=waves)
        self.register_buffer("centre", torch.zeros(in_features))
        self.register_buffer("waves", torch.randn(waves, in_features))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the waves."""
        phase = (input - self.centre) @ self.waves.T
        return torch.cat([phase.sin(), phase.cos()], -1)

    @torch.no_grad()
    def fit(self, inputs: Tensor, generator: torch.Generator) -> None:
        """Draw the waves for these inputs [..., in_features]."""
        low, high = inputs.flatten(0, -2).aminmax(dim=0)
        radius = torch.where(high > low, (high - low) / 2, 1.0)
        self.centre.copy_((low + high) / 2)
        self.waves.copy_(FREQUENCY * torch.randn(self.waves.shape, generator=generator).to(self.waves) / radius)


def check_sizes(**sizes: Any) -> None:
    """Raise a ValueError for a size that is no whole number of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
