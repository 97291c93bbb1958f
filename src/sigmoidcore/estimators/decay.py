"""Which weight decay: the one with the lowest loss on samples that were held out."""

from collections.abc import Callable

CANDIDATES = (8.0, 2.0, 0.4, 0.08)
"""From the strongest on: a network that is held back much is trained soonest."""
UNCHOSEN = 0.4
"""Where there are too few samples to choose by, or more to come."""
FEWEST = 50
"""Samples from which on some are held out to choose by."""
HELD_OUT = 0.2
WORSE = 1.05
"""A loss of so many times the best ends the search: weaker decays would fit the noise even more."""


def chosen(loss_with: Callable[[float], float]) -> float:
    """The candidate of the lowest loss; the search ends where the loss clearly rises.

    Args:
        loss_with: the loss on held-out samples after a training with this weight decay.

    Example:
        >>> tried = []
        >>> chosen(lambda decay: tried.append(decay) or (decay - 8) ** 2 + 1)
        8.0
        >>> tried
        [8.0, 2.0]
    """
    best = CANDIDATES[0], float("inf")
    for decay in CANDIDATES:
        loss = loss_with(decay)
        if loss < best[1]:
            best = decay, loss
        elif not loss <= WORSE * best[1]:
            break
    return best[0]
