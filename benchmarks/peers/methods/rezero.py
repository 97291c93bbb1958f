"""ReZero: every layer is multiplied by a trained number that begins as 0."""

import torch
from torch import Tensor, nn

from peers.method import Method, Problem
from peers.weights import he_normal, initialised


class ReZero(nn.Module):
    """x + a relu(layer(x)), with a = 0 at the start."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a * torch.relu(self.layer(x))


def build(problem: Problem) -> nn.Module:
    """He's weights."""
    blocks = [ReZero(problem.layer()) for _ in range(problem.blocks(1))]
    return initialised(nn.Sequential(*problem.stem(), *blocks, *problem.head()), he_normal)


METHODS = (Method("rezero", "Bachlechner et al. (2020), arXiv 2003.04887", build),)
