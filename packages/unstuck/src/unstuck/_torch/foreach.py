"""Operations on many tensors in one call. The public API has them for whole optimizers and total norms only."""

from collections.abc import Sequence

import torch
from torch import Tensor


def norms(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """The L2 norm of each tensor."""
    return list(torch._foreach_norm(list(tensors), 2, dtype))


def subtract(targets: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Subtract each of the others from its target, in place."""
    if targets:
        torch._foreach_sub_(list(targets), list(others))
