"""ReLU with He's weights."""

from torch import nn

from peers.method import Method, Problem
from peers.weights import he_normal, initialised


def build(problem: Problem) -> nn.Module:
    """Weights N(0, 2 / fan_in)."""
    return initialised(problem.plain(lambda width: nn.ReLU()), he_normal)


METHODS = (Method("relu-he", "He, Zhang, Ren and Sun (2015), arXiv 1502.01852", build),)
