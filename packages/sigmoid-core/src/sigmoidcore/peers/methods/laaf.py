"""Locally adaptive activations: trained slopes of tanh, for a layer or a neuron, and a loss that raises them."""

import torch
from torch import Tensor, nn

from sigmoidcore.peers.method import Method, Problem
from sigmoidcore.peers.weights import initialised

LARGER = 10.0
"""n of the paper: the slope is n a, and a begins as 1 / n."""


class LocallyAdaptiveTanh(nn.Module):
    """tanh(n a x) with trained a, one for a layer (`width` None) or one for each neuron."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full(() if width is None else (width,), 1 / LARGER))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; `x` is [batch, width]."""
        return torch.tanh(LARGER * self.a * x)


def slope_recovery(model: nn.Module) -> Tensor:
    """The term of the loss that raises slopes: 1 over the mean of exp of the layers' mean a."""
    means = [layer.a.mean() for layer in model.modules() if isinstance(layer, LocallyAdaptiveTanh)]
    return 1 / torch.stack(means).exp().mean()


def for_layers(problem: Problem) -> nn.Module:
    """A slope for each layer; Glorot's weights."""
    return initialised(problem.plain(lambda width: LocallyAdaptiveTanh(None)), nn.init.xavier_normal_)


def for_neurons(problem: Problem) -> nn.Module:
    """A slope for each neuron; Glorot's weights."""
    return initialised(problem.plain(LocallyAdaptiveTanh), nn.init.xavier_normal_)


_SOURCE = "Jagtap, Kawaguchi and Karniadakis (2020), arXiv 1909.12228"
METHODS = (
    Method("laaf-layer", _SOURCE, for_layers, recipe={"penalty": slope_recovery}, kinds=("mlp",)),
    Method("laaf-neuron", _SOURCE, for_neurons, recipe={"penalty": slope_recovery}, kinds=("mlp",)),
)
