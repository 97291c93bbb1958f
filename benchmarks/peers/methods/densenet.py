"""DenseNet: each layer reads the joined outputs of all layers of its block."""

import torch
from torch import Tensor, nn

from peers.method import Method, Problem
from peers.methods.normalisation import batch_norm
from peers.weights import he_normal, initialised

LAYERS = 10
"""Of a block, with its transition."""


class DenseBlock(nn.Module):
    """Layers of `growth` outputs that each read everything before them, and a transition back to the width."""

    def __init__(self, problem: Problem, layers: int, growth: int) -> None:
        super().__init__()
        widths = [problem.width + growth * i for i in range(layers)]

        def layer(n: int, m: int, kernel: int = 3) -> nn.Sequential:
            return nn.Sequential(batch_norm(problem, n), nn.ReLU(), problem.layer(n, m, kernel=kernel))

        self.layers = nn.ModuleList(layer(n, growth) for n in widths[:-1])
        self.transition = layer(widths[-1], problem.width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        result: Tensor = self.transition(x)
        return result


def build(problem: Problem) -> nn.Module:
    """Growth of a quarter of the width; He's weights; blocks of ten layers, of which the last may be shorter."""
    hidden = problem.blocks(1)
    sizes = [min(LAYERS, hidden - start) for start in range(0, hidden, LAYERS)]
    blocks = [DenseBlock(problem, layers, max(1, problem.width // 4)) for layers in sizes]
    last = [batch_norm(problem, problem.width), nn.ReLU(), *problem.head()]
    return initialised(nn.Sequential(*problem.stem(), *blocks, *last), he_normal)


METHODS = (Method("densenet", "Huang, Liu, van der Maaten and Weinberger (2017), arXiv 1608.06993", build),)
