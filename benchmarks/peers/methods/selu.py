"""Self-normalising networks: activations tend to mean 0 and variance 1."""

from torch import nn

from peers.method import Method, Problem
from peers.weights import initialised, lecun_normal


def build(problem: Problem) -> nn.Module:
    """SELU, weights N(0, 1 / fan_in)."""
    return initialised(problem.plain(lambda width: nn.SELU()), lecun_normal)


METHODS = (Method("selu", "Klambauer, Unterthiner, Mayr and Hochreiter (2017), arXiv 1706.02515", build),)
