"""Statistics of a sampled step: those of several passes through a core are joined."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sigmoidcore.observation.gradients import CorePass, mean_relative_slopes
from unstuck.observation import norms, row_norms


def gradient_sizes(passes: Iterable[list[CorePass]]) -> Tensor:
    """Gradient sizes of the cores, [cores], float64, on the CPU: those of several passes are joined."""
    flat = norms([gradient for of_core in passes for one in of_core for gradient in one.gradients()])
    samples = [one.samples for of_core in passes for one in of_core for _ in one.gradients()]
    flat /= torch.tensor(samples, dtype=torch.float64).sqrt()
    counts = [sum([len(one.gradients()) for one in of_core]) for of_core in passes]
    if len(flat) == len(counts):
        return flat
    return torch.stack([torch.linalg.vector_norm(part) for part in torch.split(flat, counts)])


def gradient_moments(passes: Iterable[list[CorePass]], sizes: Tensor, home: torch.device) -> Tensor:
    """Sums over the samples of squares and fourth powers of their gradients, over the sizes: [2, cores], on the CPU.

    The square of the first over the second is the number of samples that make the gradient: all if they are alike, one
    if a single sample has nearly all of it. Where layers are computed as one, positions count as samples.
    """
    found = []
    for of_core, size in zip(passes, sizes.tolist(), strict=True):
        gradients = [gradient for one in of_core for gradient in one.gradients()]
        squares = torch.cat([row_norms(gradient) for gradient in gradients]).div_(size).square_()
        found.append(torch.stack([squares.sum(), squares.square().sum()]).to(home))
    return torch.stack(found, 1).to("cpu", torch.float64)  # one look at the device, not one for every core


def relative_slopes(passes: Iterable[list[CorePass]], home: torch.device) -> list[Tensor]:
    """Mean relative slope of every neuron of each core over the rows of all its passes, on one device."""
    slopes = iter(mean_relative_slopes([one for of_core in passes for one in of_core]))
    return [_joined([next(slopes).to(home) for _ in of_core], of_core) for of_core in passes]


def _joined(means: list[Tensor], passes: list[CorePass]) -> Tensor:
    """Mean over the rows of several passes from the mean over those of each."""
    if len(means) == 1:
        return means[0]
    rows = sum(one.rows for one in passes)
    return torch.stack([mean * (one.rows / rows) for mean, one in zip(means, passes, strict=True)]).sum(0)
