"""Tanh with orthogonal weights: dynamical isometry. The gain is a knob near 1, which the depth has to suit."""

from torch import nn

from peers.method import Method, Problem
from peers.weights import orthogonal


def build(problem: Problem, gain: float) -> nn.Module:
    """All weights orthogonal (kernels: delta-orthogonal) times the gain; no biases at the start."""
    return orthogonal(problem.plain(lambda width: nn.Tanh()), gain)


_SOURCE = "Pennington, Schoenholz and Ganguli (2017), arXiv 1711.04735; kernels: Xiao et al. (2018), arXiv 1806.05393"
METHODS = (Method("tanh-orthogonal", _SOURCE, build, knob="gain", knobs=(1.0, 1.02, 1.05)),)
