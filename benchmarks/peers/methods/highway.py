"""Highway networks: a gate chooses between a layer and its input."""

import torch
from torch import Tensor, nn

from peers.method import Method, Problem
from peers.weights import he_normal, initialised


class Highway(nn.Module):
    """T relu(layer(x)) + (1 - T) x with T = sigmoid(gate(x)), equation 3."""

    def __init__(self, layer: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.layer, self.gate = layer, gate

    def forward(self, x: Tensor) -> Tensor:
        opened = torch.sigmoid(self.gate(x))
        return opened * torch.relu(self.layer(x)) + (1 - opened) * x


def build(problem: Problem, bias: float) -> nn.Module:
    """He's weights; the gates' biases begin negative, so that they carry their input."""
    blocks = [Highway(problem.layer(), problem.layer()) for _ in range(problem.blocks(1))]
    model = initialised(nn.Sequential(*problem.stem(), *blocks, *problem.head()), he_normal)
    for block in blocks:
        nn.init.constant_(block.gate.bias, bias)  # type: ignore[arg-type]
    return model


_SOURCE = "Srivastava, Greff and Schmidhuber (2015), arXiv 1505.00387"
METHODS = (Method("highway", _SOURCE, build, knob="gate bias", knobs=(-1.0, -3.0)),)
