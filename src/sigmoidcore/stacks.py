"""Many small tensors measured together: one call for several layers of the same shape, not one for each."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NUMBERS = 65_536
"""Numbers in one call: with fewer the calls cost more than their work, more no longer stay in the cache."""


def together(measure: Callable[..., Tensor], first: Sequence[Tensor], *others: Sequence[Tensor]) -> list[Tensor]:
    """`measure` of the tensors at each place, called with stacks of those that are alike.

    Args:
        measure: takes one stack for each sequence, and returns one tensor, of the same length.
        first: tensors of any shapes, dtypes and devices; those that have all of these in common are stacked.
        others: of the same length; where those of `first` are alike, so are these.

    Returns:
        As many tensors as `first` has.

    Example:
        >>> together(lambda x: x.sum(1), [torch.ones(2), torch.ones(3), torch.zeros(2)])
        [tensor(2.), tensor(3.), tensor(0.)]
    """
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, tensor in enumerate(first):
        alike[tensor.shape, tensor.dtype, tensor.device].append(i)
    results: dict[int, Tensor] = {}
    for indices in alike.values():
        most = max(1, NUMBERS // max(1, first[indices[0]].numel()))
        for chunk in (indices[i : i + most] for i in range(0, len(indices), most)):
            stacks = [torch.stack([column[i] for i in chunk]) for column in (first, *others)]
            results.update(zip(chunk, measure(*stacks).unbind(), strict=True))
    return [results[i] for i in range(len(first))]
