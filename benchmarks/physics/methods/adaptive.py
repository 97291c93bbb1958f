"""Tanhs whose slopes are trained, with Glorot's weights."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from physics.methods.method import Method
from physics.methods.plain import sequence

LARGER = 10.0
"""n of the paper of locally adaptive activations: the slope is n a, and a begins as 1 / n."""


class LocallyAdaptiveTanh(nn.Module):
    """tanh(n a x) with trained a, one for a layer (`width` None) or one for each neuron."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full(() if width is None else (width,), 1 / LARGER))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(LARGER * self.a * x)


def slope_recovery(model: nn.Module) -> Tensor:
    """The term of the loss that raises slopes: 1 over the mean of exp of the layers' mean a."""
    means = [layer.a.mean() for layer in model.modules() if isinstance(layer, LocallyAdaptiveTanh)]
    return 1 / torch.stack(means).exp().mean()


class Adaptive(nn.Module):
    """alpha f(beta x + gamma), three trained numbers a layer: `AdaptiveTanh` of PINA, with which tests compare it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.beta = nn.Parameter(torch.tensor(1.0))
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * self.function(self.beta * x + self.gamma)


def build(points: Tensor, width: int, depth: int, outputs: int, activation: Callable[[int], nn.Module]) -> nn.Module:
    return sequence(points.shape[1], width, depth, outputs, lambda: activation(width))


_LOCAL = "Jagtap, Kawaguchi and Karniadakis (2020), arXiv 1909.12228"
METHODS = (
    Method("l-laaf", _LOCAL, partial(build, activation=lambda _: LocallyAdaptiveTanh(None)), penalty=slope_recovery),
    Method("n-laaf", _LOCAL, partial(build, activation=LocallyAdaptiveTanh), penalty=slope_recovery),
    Method("adaptive-tanh", "PINA, pina.adaptive_function", partial(build, activation=lambda _: Adaptive(torch.tanh))),
)
