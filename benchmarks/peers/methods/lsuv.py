"""Layer-sequential unit variance: orthogonal weights, scaled layer by layer on a batch."""

import torch
from torch import nn

from peers.method import Method, Problem

TOLERANCE, MOST = 0.1, 10
"""Of the variance, and most corrections of a layer: algorithm 1."""


@torch.no_grad()
def build(problem: Problem) -> nn.Module:
    """ReLU; the outputs of every layer have variance 1 for the problem's inputs."""
    model = problem.plain(lambda width: nn.ReLU())
    signal = problem.inputs
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            for _ in range(MOST):
                variance = layer(signal).var()
                if abs(variance - 1) < TOLERANCE:
                    break
                layer.weight.div_(variance.sqrt())
        signal = layer(signal)
    return model


METHODS = (Method("lsuv", "Mishkin and Matas (2016), arXiv 1511.06422", build),)
