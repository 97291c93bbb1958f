"""Problems for the methods of benchmarks/peers: random samples of two classes."""

import torch

from peers import Problem

SHAPES = {"mlp": (6,), "conv": (1, 8, 8)}
"""Of a sample, by kind of network."""


def problem(kind: str = "mlp", *, width: int = 16, depth: int = 12, samples: int = 64) -> Problem:
    inputs, targets = torch.randn(samples, *SHAPES[kind]), torch.randint(2, (samples,))
    return Problem(inputs, targets, outputs=2, width=width, depth=depth)
