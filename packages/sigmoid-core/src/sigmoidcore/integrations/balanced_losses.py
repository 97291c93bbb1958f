"""Weights for the terms of a loss, with which all of them pull equally at the parameters."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class BalancedLosses:
    """The weighted sum of a loss's terms; the weights make the norms of their gradients equal. For any network.

    The norms are measured at the first call and then every `every` calls, which takes a backward pass for each term.
    The weight of a term is the mean of the norms over its own, as a moving average.

    Args:
        parameters: of the network.
        every: calls between two measurements; 0 keeps the weights, as L-BFGS needs, whose line search compares losses.
        momentum: part of the old weight that a measurement keeps.

    Attributes:
        weights: one number for each term; empty before the first call. They are the state to save and to restore.

    Raises:
        ValueError: `every` is negative, `momentum` not in [0, 1), or the number of terms changes.
        TypeError: the terms are a single tensor.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> balanced = BalancedLosses(network.parameters())
        >>> small, large = network.weight.square().sum(), 100 * network.bias.square().sum()
        >>> loss = balanced([small, large])
        >>> ratio = balanced.weights[0] / balanced.weights[1]
        >>> bool(abs(ratio - 100 * network.bias.abs() / network.weight.abs()) < 1e-3 * ratio)
        True

    Source:
        Wang, Sankaran, Wang and Perdikaris (2023), arXiv 2308.08468, section 4.2.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, every: int = 100, momentum: float = 0.9) -> None:
        if every < 0:
            raise ValueError(f"every must be a number of calls or 0, got {every}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.weights: list[float] = []
        self.every, self.momentum = every, momentum
        self._parameters = [p for p in parameters if p.requires_grad]
        self._calls = 0

    def __call__(self, losses: Sequence[Tensor]) -> Tensor:
        """The weighted sum of these terms, which are always in the same order."""
        self._check(losses)
        if torch.is_grad_enabled():
            if self.every and self._calls % self.every == 0:
                self.measure(losses)
            self._calls += 1
        weights = self.weights or [1.0] * len(losses)
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()

    def measure(self, losses: Sequence[Tensor]) -> None:
        """Move the weights towards those of these terms; a term without a finite gradient keeps its own."""
        self._check(losses)
        norms = []
        for loss in losses:
            gradients: Sequence[Any] = torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)
            norms.append(math.hypot(*(float(torch.linalg.vector_norm(g)) for g in gradients if g is not None)))
        usable = [norm for norm in norms if 0 < norm < math.inf]
        old = self.weights or [1.0] * len(losses)
        new = [sum(usable) / len(usable) / n if 0 < n < math.inf else w for n, w in zip(norms, old, strict=True)]
        kept = self.momentum if self.weights else 0.0
        self.weights = [kept * a + (1 - kept) * b for a, b in zip(old, new, strict=True)]

    def _check(self, losses: Any) -> None:
        if isinstance(losses, Tensor):
            raise TypeError("losses must be a list of terms, balanced([residual, boundary]), got a single tensor")
        if self.weights and len(losses) != len(self.weights):
            raise ValueError(f"losses has {len(losses)} terms, those before had {len(self.weights)}: always give all")
