"""A network of cores: an MLP of any depth."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

from torch import nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.rows import Chain as Chain


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
    ) -> None:
        check_sizes(in_features=in_features, width=width, depth=depth, out_features=out_features)
        make = activation or (lambda features: SigmoidCore(features, alpha=4.0, centered=True))
        layers: list[nn.Module] = []
        for layer in range(depth):
            layers += [nn.Linear(width if layer else in_features, width), make(width)]
        super().__init__(*layers, nn.Linear(width, out_features))


def check_sizes(**sizes: Any) -> None:
    """Raise a ValueError unless every size is a whole number of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
