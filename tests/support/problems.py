"""Problems for the methods of `sigmoidcore.peers`: random samples of two classes."""

import torch
from torch import nn

from sigmoidcore.peers import Problem

SHAPES = {"mlp": (6,), "conv": (1, 8, 8), "rnn": (5, 3)}
"""Of a sample, by kind of network."""


def problem(kind: str = "mlp", *, width: int = 16, depth: int = 12, samples: int = 64) -> Problem:
    inputs, targets = torch.randn(samples, *SHAPES[kind]), torch.randint(2, (samples,))
    return Problem(inputs, targets, nn.functional.cross_entropy, outputs=2, width=width, depth=depth)
