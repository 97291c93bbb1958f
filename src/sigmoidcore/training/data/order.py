"""The order of the samples: a function of seed and epoch alone, so that a run can go on in the middle of an epoch."""

import numpy as np
import torch
from torch import Tensor


def mixed(*numbers: int) -> int:
    """One seed out of several numbers, at least 0; seeds that are near each other give ones that are not.

    Example:
        >>> mixed(0, 1) != mixed(1, 0)
        True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The numbers 0 to `count` - 1 in the order of this epoch, int64; always the same for the same seed and epoch.

    Args:
        count: of samples.
        seed: of the run, at least 0.
        epoch: from 0.

    Example:
        >>> bool((shuffled(5, 0, 1) == shuffled(5, 0, 1)).all()), sorted(shuffled(5, 0, 1).tolist())
        (True, [0, 1, 2, 3, 4])
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed, epoch)))


def reshuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The numbers 0 to `count` - 1, shuffled once for each epoch so far by one generator: in memory, with few samples.

    It is the order of a loop that keeps one generator, made again from seed and epoch alone.

    Args:
        count: of samples.
        seed: of the run, at least 0.
        epoch: from 0.

    Example:
        >>> generator = torch.Generator().manual_seed(3)
        >>> orders = [torch.randperm(5, generator=generator) for _ in range(2)]
        >>> torch.equal(reshuffled(5, 3, 1), orders[1])
        True
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epoch):
        torch.randperm(count, generator=generator)
    return torch.randperm(count, generator=generator)
