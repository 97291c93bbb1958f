"""What a method is: it builds a network for a problem, and says how this network is trained."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from torch import Tensor, nn

import sigmoidcore as sc

RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01)
"""Rates of Adam that a method without a rule for its rate is trained with."""


@dataclass(frozen=True)
class Problem:
    """What a network is built for, and the parts that all networks have in common.

    Layers are fully connected for rows of numbers, and 3 x 3 convolutions for images; the second convolution has a
    stride of 2.

    Attributes:
        inputs: some training samples: [batch, features], or [batch, channels, height, width].
        targets: their class numbers, [batch].
        outputs: number of outputs.
        width: neurons or channels of every hidden layer.
        depth: number of hidden layers.
    """

    inputs: Tensor
    targets: Tensor
    outputs: int
    width: int
    depth: int

    @property
    def has_images(self) -> bool:
        return self.inputs.dim() == 4

    @property
    def features(self) -> int:
        """Inputs of the first layer: features or channels."""
        return self.inputs.shape[1]

    def plain(self, activation: Callable[[int], nn.Module] | None) -> nn.Sequential:
        """`depth` times a layer and an activation, which is made from the width, then the last layer.

        Weights are PyTorch's default. Without an activation, a centered `SigmoidCore` of slope 4.
        """
        sizes = self.features, self.width, self.depth, self.outputs
        if not self.has_images:
            return sc.MLP(*sizes, activation=activation)
        make = activation or (lambda channels: sc.SigmoidCore(channels, dim=1, alpha=4.0, centered=True))
        layers: list[nn.Module] = []
        for layer in range(self.depth):  # the second one halves height and width
            read, stride = self.width if layer else self.features, 2 if layer == 1 else 1
            layers += [nn.Conv2d(read, self.width, 3, stride, padding=1), make(self.width)]
        pixels = math.prod(-(-size // 2) for size in self.inputs.shape[2:])
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(self.width * pixels, self.outputs))

    def layer(
        self, inputs: int | None = None, outputs: int | None = None, *, bias: bool = True, kernel: int = 3
    ) -> nn.Linear | nn.Conv2d:
        """A layer from `inputs` to `outputs` neurons or channels; both are the width if they are not given."""
        n, m = inputs or self.width, outputs or self.width
        return nn.Conv2d(n, m, kernel, padding=kernel // 2, bias=bias) if self.has_images else nn.Linear(n, m, bias)

    def stem(self) -> list[nn.Module]:
        """The hidden layers before the first block: one, or two convolutions."""
        first = self.layer(self.features)
        return [first, nn.Conv2d(self.width, self.width, 3, 2, padding=1)] if self.has_images else [first]

    def blocks(self, layers: int) -> int:
        """How many blocks of so many layers follow the stem; at least one."""
        return max(1, (self.depth - len(self.stem())) // layers)

    def head(self) -> list[nn.Module]:
        """The last layer."""
        if not self.has_images:
            return [nn.Linear(self.width, self.outputs)]
        height, width = (-(-side // 2) for side in self.inputs.shape[2:])
        return [nn.Flatten(), nn.Linear(self.width * height * width, self.outputs)]


def one_rate(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The same rate for all parameters."""
    return [{"params": list(model.parameters()), "lr": lr}]


@dataclass(frozen=True)
class Method:
    """A way to make a deep network learn.

    Attributes:
        name: of a row.
        source: the paper, with its arXiv number.
        build: makes the network from a `Problem`, and from a value of the knob if the method has one. Random numbers
            are those of `torch.manual_seed`.
        knob: name of the number that the method leaves to its user.
        knobs: its values that are tried.
        rates: values of `lr` that are tried; a single one if the method has a rule for it.
        recipe: other options of `training.train` that the method sets.
    """

    name: str
    source: str
    build: Callable[..., nn.Module]
    knob: str = ""
    knobs: tuple[float, ...] = ()
    rates: tuple[float, ...] = RATES
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def network(self, problem: Problem, knob: float | None = None) -> nn.Module:
        """The network, with its first weights; without a value, the knob's first."""
        if self.knob:
            return self.build(problem, self.knobs[0] if knob is None else knob)
        return self.build(problem)

    def settings(self, rates: tuple[float, ...] = ()) -> list[tuple[float | None, float]]:
        """All (knob, rate) to try; `rates` replace the method's own, except for a rule's."""
        return list(product(self.knobs or (None,), rates if rates and len(self.rates) > 1 else self.rates))

    def training(self) -> dict[str, Any]:
        """Options of `training.train`: plain Adam, unless the method says otherwise."""
        return {"rates": one_rate, "equalize": False, **self.recipe}
