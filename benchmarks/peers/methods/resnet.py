"""Residual networks with pre-activation: h + layer(relu(norm(layer(relu(norm(h))))))."""

from functools import partial

from torch import Tensor, nn

from peers.method import Method, Problem
from peers.methods.normalisation import Normalise, batch_norm
from peers.weights import he_normal, initialised


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.branch(x)
        return added


def build(problem: Problem, normalise: Normalise) -> nn.Module:
    """He's weights; a last normalisation and ReLU before the head."""
    width = problem.width

    def half() -> list[nn.Module]:
        return [normalise(problem, width), nn.ReLU(), problem.layer()]

    blocks = [Residual(*half(), *half()) for _ in range(problem.blocks(2))]
    last = [normalise(problem, width), nn.ReLU(), *problem.head()]
    return initialised(nn.Sequential(*problem.stem(), *blocks, *last), he_normal)


def zero_branches(problem: Problem) -> nn.Module:
    """No normalisation; the last layer of every branch begins as 0, so that a block begins as the identity."""
    model = build(problem, lambda problem, width: nn.Identity())
    for block in model.modules():
        if isinstance(block, Residual):
            nn.init.zeros_(block.branch[-1].weight)  # type: ignore[arg-type]
    return model


_SOURCE = "He, Zhang, Ren and Sun (2016), arXiv 1603.05027"
METHODS = (
    Method("resnet", _SOURCE, partial(build, normalise=batch_norm)),
    Method("resnet-zero", f"{_SOURCE}; zeros: Goyal et al. (2017), arXiv 1706.02677", zero_branches),
)
