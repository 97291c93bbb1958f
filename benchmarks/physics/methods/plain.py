"""Networks of tanhs: with Glorot's weights, with orthogonal ones, and with a skip connection around every layer."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from peers.weights import initialised, orthogonal
from physics.methods.method import Method


def sequence(features: int, width: int, depth: int, outputs: int, activation: Callable[[], nn.Module]) -> nn.Module:
    """`depth` times a layer and an activation, then the last layer: Glorot's weights, N(0, 2 / (fan_in + fan_out))."""
    sizes = [features, *[width] * depth]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), activation())]
    return initialised(nn.Sequential(*hidden, nn.Linear(width, outputs)), nn.init.xavier_normal_)


def tanh(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    return sequence(points.shape[1], width, depth, outputs, nn.Tanh)


def tanh_orthogonal(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """Gain 1."""
    return orthogonal(tanh(points, width, depth, outputs), 1.0)


class Residual(nn.Module):
    """x + tanh(layer(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.layer(x))


def residual(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """Glorot's weights; the first layer has no skip connection."""
    blocks = [Residual(width) for _ in range(depth - 1)]
    first = nn.Linear(points.shape[1], width), nn.Tanh()
    return initialised(nn.Sequential(*first, *blocks, nn.Linear(width, outputs)), nn.init.xavier_normal_)


METHODS = (
    Method("tanh", "Glorot and Bengio (2010); Raissi et al., arXiv 1711.10561", tanh),
    Method("tanh-orthogonal", "Pennington, Schoenholz and Ganguli (2017), arXiv 1711.04735", tanh_orthogonal),
    Method("residual", "He, Zhang, Ren and Sun (2015), arXiv 1512.03385", residual),
)
