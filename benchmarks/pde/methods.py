"""The networks that are compared: one shape, and for each method its activation, first weights and rates.

All of them have `depth` hidden layers of `width` neurons. What adapts has a few parameters more: a slope a layer or a
neuron, or three numbers a layer.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import sigmoidcore as sc

BETAS = (0.9, 0.99)
"""Of Adam, for all methods: the points are new at every step, and a few of them near a jump make large gradients. With
0.999, PyTorch's default, errors were larger for tanh and for Sigmoid Core (tried by hand)."""


LARGER = 10.0
"""n of the paper of locally adaptive activations: the slope is n a, and a begins as 1 / n."""


class LocallyAdaptiveTanh(nn.Module):
    """tanh(n a x) with trained a, one for a layer (`width` None) or one for each neuron.

    Source:
        Jagtap, Kawaguchi and Karniadakis (2020), arXiv 1909.12228.
    """

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
    """alpha f(beta x + gamma), three trained numbers a layer: `AdaptiveTanh` and `AdaptiveSigmoid` of PINA.

    Source:
        PINA (pina-mathlab), pina.adaptive_function; tests/integrations compares the two.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.beta = nn.Parameter(torch.tensor(1.0))
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * self.function(self.beta * x + self.gamma)


@dataclass
class Learner:
    """A network and how it learns.

    Attributes:
        model: the network.
        optimizer: Adam, at its first rates.
        penalty: is added to the loss.
        watching: what runs during the training.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    penalty: Callable[[], Tensor | float] = lambda: 0.0
    watching: AbstractContextManager[object] = field(default_factory=nullcontext)


@dataclass(frozen=True)
class Method:
    """How a method makes a learner, and what is tried for it.

    Attributes:
        tries: settings for `make`, as many for every method; the rate is Adam's, or that of `depth_scaled_lr`.
        make: from the points that the network will see [n, dimensions], width, depth and one of the settings.
    """

    tries: tuple[dict[str, float], ...]
    make: Callable[..., Learner]


def plain(activation: Callable[[int], nn.Module], recovers: bool = False) -> Callable[..., Learner]:
    """Glorot's weights, zero biases, one rate for all parameters."""

    def make(x: Tensor, width: int, depth: int, rate: float) -> Learner:
        layers = sc.MLP(x.shape[1], width, depth, 1, activation=activation).children()
        model = nn.Sequential(*layers)
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=BETAS, fused=True)
        return Learner(model, optimizer, (lambda: slope_recovery(model)) if recovers else lambda: 0.0)

    return make


def core(x: Tensor, width: int, depth: int, rate: float, saturation: float, output: float) -> Learner:
    """`prepare`, the rates of the rule, and the Equalizer.

    `output` is the deviation of the network's first outputs.
    """
    model = sc.MLP(x.shape[1], width, depth, 1)
    sc.prepare(model, x, saturation=saturation)
    with torch.no_grad():
        model[-1].weight.mul_(output)
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model, rate), betas=BETAS, fused=True)
    return Learner(model, optimizer, watching=sc.Equalizer(model, optimizer))


RATES = tuple({"rate": rate} for rate in (0.0001, 0.0003, 0.001, 0.003))
CORE = tuple({"rate": rate, "saturation": 2.0, "output": size} for rate in (0.003, 0.01) for size in (0.1, 1.0))
"""Saturation 2 is what `saturation="auto"` gives inputs of few dimensions."""

METHODS = {
    "tanh": Method(RATES, plain(lambda width: nn.Tanh())),
    "sigmoid": Method(RATES, plain(lambda width: nn.Sigmoid())),
    "laaf layer": Method(RATES, plain(lambda width: LocallyAdaptiveTanh(None), recovers=True)),
    "laaf neuron": Method(RATES, plain(LocallyAdaptiveTanh, recovers=True)),
    "adaptive tanh": Method(RATES, plain(lambda width: Adaptive(torch.tanh))),
    "adaptive sigmoid": Method(RATES, plain(lambda width: Adaptive(torch.sigmoid))),
    "sigmoid core": Method(CORE, core),
}
