"""Which weight decay: the one with the lowest loss on samples that were held out."""

import math
from collections.abc import Callable

CANDIDATES = (8.0, 2.0, 0.4, 0.08)
"""All of them are tried: a deep network can die of a strong one, and a weaker one be best all the same."""
UNCHOSEN = 0.4
"""Where there are too few samples to choose by, or more to come."""
FEWEST = 50
"""Samples from which on some are held out to choose by."""
HELD_OUT = 0.2


def chosen(loss_with: Callable[[float], float]) -> float:
    """The candidate of the lowest loss; of equal ones the strongest.

    Args:
        loss_with: the loss on held-out samples after a training with this weight decay; infinite or nan if it diverged.

    Raises:
        FloatingPointError: the loss is finite with none.

    Example:
        >>> chosen(lambda decay: {8.0: 0.5, 2.0: 0.8, 0.4: 0.1, 0.08: 0.1}[decay])
        0.4
    """
    losses = {decay: loss_with(decay) for decay in CANDIDATES}
    finite = [decay for decay in CANDIDATES if math.isfinite(losses[decay])]
    if not finite:
        raise FloatingPointError(
            f"the loss is finite with none of the weight decays {', '.join(f'{decay:g}' for decay in CANDIDATES)}: "
            "use a smaller learning_rate_init"
        )
    return min(finite, key=losses.__getitem__)
