"""Plain sigmoids, and the scaled sigmoid."""

import torch
from torch import Tensor, nn

from peers.method import Method, Problem
from peers.weights import initialised


class ScaledSigmoid(nn.Module):
    """4 sigmoid(x) - 2, which is near x where x is small."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * torch.sigmoid(x) - 2


def plain(problem: Problem) -> nn.Module:
    """PyTorch's default weights."""
    return problem.plain(lambda width: nn.Sigmoid())


def scaled(problem: Problem) -> nn.Module:
    """Glorot's weights: uniform within sqrt(6 / (fan_in + fan_out))."""
    return initialised(problem.plain(lambda width: ScaledSigmoid()), nn.init.xavier_uniform_)


METHODS = (
    Method("sigmoid", "sigmoids with PyTorch's default weights", plain),
    Method("sigmoid-scaled", "Xu, Huang and Li (2016), arXiv 1602.05980", scaled),
)
