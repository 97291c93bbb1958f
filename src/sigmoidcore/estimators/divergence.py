"""What to say when a training's numbers are not finite: the cause, as far as it can be known, and the remedy."""

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.estimators.samples import READ, Samples

FAR = 1e6
"""Standard deviations. Of n samples none is further from their mean than the root of n: one so far was not among those
that the scales were made from."""


def in_words(samples: Samples, learning_rate: float, weight_decay: float) -> str:
    """The sentence for a loss or weights that are not finite.

    Args:
        samples: that were learnt.
        learning_rate: `learning_rate_init`.
        weight_decay: that was used.
    """
    rows = range(0, len(samples), READ)
    inputs = [samples.inputs(np.arange(start, min(start + READ, len(samples)))).abs().amax(0) for start in rows]
    far = _far("X", torch.stack(inputs).amax(0))
    if far is None and samples.targets.dim() == 2:
        far = _far("y", samples.targets.abs().amax(0))
    if far is not None:
        return f"the loss or a weight is not finite, and {far}: correct it, or leave it out"
    weaker = f", or a smaller weight_decay than {weight_decay:g}" if weight_decay > 0 else ""
    return f"the loss or a weight is not finite: use a smaller learning_rate_init than {learning_rate:g}{weaker}"


def _far(name: str, sizes: Tensor) -> str | None:
    """Which column has a number that scales were not made for, from the largest of each, standardised."""
    size = float(sizes.max())
    if size < FAR:
        return None
    deviations = f"{size:.2g}" if size < torch.inf else f"more than {torch.finfo(sizes.dtype).max:.2g}"
    return (
        f"column {int(sizes.argmax())} of {name} holds a number {deviations} standard deviations from the mean of the "
        "first samples"
    )
