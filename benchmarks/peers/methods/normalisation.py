"""Normalisation before every activation of a plain network."""

from collections.abc import Callable
from functools import partial

from torch import nn

from peers.method import Method, Problem

Normalise = Callable[[Problem, int], nn.Module]
"""A normalisation of a number of neurons or channels."""


def batch_norm(problem: Problem, width: int) -> nn.Module:
    """By the batch."""
    return nn.BatchNorm2d(width) if problem.has_images else nn.BatchNorm1d(width)


def layer_norm(problem: Problem, width: int) -> nn.Module:
    """By the neurons of a sample."""
    return nn.GroupNorm(1, width) if problem.has_images else nn.LayerNorm(width)


def build(problem: Problem, normalise: Normalise, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """PyTorch's weights: normalisation makes their size irrelevant."""
    return problem.plain(lambda width: nn.Sequential(normalise(problem, width), activation()))


_BATCH, _LAYER = "Ioffe and Szegedy (2015), arXiv 1502.03167", "Ba, Kiros and Hinton (2016), arXiv 1607.06450"
METHODS = (
    Method("batchnorm", _BATCH, partial(build, normalise=batch_norm)),
    Method("batchnorm-sigmoid", _BATCH, partial(build, normalise=batch_norm, activation=nn.Sigmoid)),
    Method("layernorm", _LAYER, partial(build, normalise=layer_norm)),
)
