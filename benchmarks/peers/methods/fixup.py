"""Fixup: residual networks without normalisation, by the size of their first weights."""

from typing import Any

import torch
from torch import Tensor, nn

from peers.method import Method, Problem
from peers.weights import he_normal


class FixupBlock(nn.Module):
    """relu(x + scale * last(relu(first(x + b1) + b2) + b3) + b4), with numbers for scale and biases.

    The first layer has He's weights times `blocks`^(-1/2), the last one zeros: the rules of section 3,
    with m = 2 layers in a branch.
    """

    def __init__(self, first: nn.Module, last: nn.Module, blocks: int) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.scale = nn.Parameter(torch.ones(()))
        self.biases = nn.ParameterList(torch.zeros(()) for _ in range(4))
        with torch.no_grad():
            he_normal(first.weight).mul_(blocks**-0.5)  # type: ignore[arg-type]
            last.weight.zero_()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        b1, b2, b3, b4 = self.biases
        branch = self.last(torch.relu(self.first(x + b1) + b2) + b3)
        return torch.relu(x + self.scale * branch + b4)


def build(problem: Problem) -> nn.Module:
    """The last layer of the network begins as 0, too."""
    count = problem.blocks(2)
    blocks = [FixupBlock(problem.layer(bias=False), problem.layer(bias=False), count) for _ in range(count)]
    stem, head = problem.stem(), problem.head()
    for layer in stem:
        he_normal(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    nn.init.zeros_(head[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(head[-1].bias)  # type: ignore[arg-type]
    return nn.Sequential(*stem, nn.ReLU(), *blocks, *head)


def rates(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """A tenth of the rate for the numbers, as in the authors' code."""
    numbers = [p for p in model.parameters() if p.dim() == 0]
    return [{"params": [p for p in model.parameters() if p.dim()], "lr": lr}, {"params": numbers, "lr": lr / 10}]


METHODS = (Method("fixup", "Zhang, Dauphin and Ma (2019), arXiv 1901.09321", build, recipe={"rates": rates}),)
