"""What a denoiser learns from: how much of what it reads is the noise that it is asked for, and how that is drawn."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.again import Again, kinds
from unstuck.step import Step

COMPARISONS = calls.REGRESSION_LOSSES | calls.DIFFERENCES
FEWEST, ENDS, NEAR = 64, 0.05, 4
"""Samples; the share of them that have the smallest, or the largest times; those that have nearly the same time."""
RISES, DROWNED = 0.15, 0.8
"""How much the correlation depends on the time, at least, unless it is larger than this at all times."""


def of_noise(again: Again, earlier: Sequence[Step]) -> dict[str, Any]:
    """The correlations of a denoiser's inputs with the noise at both ends of times, and whether that is uniform."""
    own = [again, *(Again(step, again.values) for step in earlier)]
    found = [triple for one in own for triple in _asked(one)]
    numbers = len(found[0][2]) if found else 0
    known = [triple for triple in found if triple[0].shape[1:] == found[0][0].shape[1:] and len(triple[2]) == numbers]
    if sum(len(x) for x, _noise, _numbers in known) < FEWEST:
        return {}
    read = torch.cat([one.flatten(1) for one, _noise, _numbers in known]).double()
    noise = torch.cat([one.flatten(1) for _read, one, _numbers in known]).double()
    normal, uniform = _is_normal(noise), _is_uniform(noise)
    noise = noise - 0.5 if uniform else noise
    for i in range(numbers if normal or uniform else 0):
        order = torch.cat([triple[2][i].flatten() for triple in known]).argsort()
        order, count = order[: len(order) // NEAR * NEAR], max(FEWEST // 4, int(ENDS * len(order)))
        near = torch.nn.functional.normalize(read[order].reshape(len(order) // NEAR, -1)).reshape(len(order), -1)
        ends = slice(count), slice(-count, None)
        low, high = sorted(_correlation(near[end], noise[order][end]) for end in ends)
        if high - low > RISES or low > DROWNED:
            return {"noise": (low, high), "uniform_noise": uniform}
    return {}


def _asked(again: Again) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """What a network reads, the numbers of that shape that it is asked for, and its inputs of one number a sample."""
    inputs = [n.value for n in again.given if n.value is not None and any(user.module is not None for user in n.users)]
    numbers = [x.double() for x in inputs if math.prod(x.shape[1:]) == 1 and len(kinds(x)) > 2]
    needed = set(again.step.needed())
    compared = (n for n in again.step.calls(*COMPARISONS) if n in needed and n.module is None and n.requires_grad)
    for target in (read.through(calls.KEEP_PLACES).value for node in compared for read in node.reads[:2]):
        same = (x for x in inputs if target is not None and x.shape == target.shape and math.prod(x.shape[1:]) > 1)
        yield from ((x, target, numbers) for x in same if x.is_floating_point() and target is not None and numbers)


def _correlation(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(torch.finfo(one.dtype).tiny))


def _is_normal(x: Tensor) -> bool:
    """Whether numbers have the moments of the standard normal distribution, to four standard errors."""
    square, count = float(x.square().mean()), x.numel()
    moments = (float(x.mean()), 0.0, 1.0), (square, 1.0, 2.0), (float(x.pow(4).mean()) / square**2, 3.0, 24.0)
    return all(abs(found - usual) < max(0.1, 4 * math.sqrt(var / count)) for found, usual, var in moments)


def _is_uniform(x: Tensor) -> bool:
    """Whether numbers have the bounds and the first moments of the uniform distribution from 0 to 1."""
    within = float(x.min()) >= 0 and 0.9 < float(x.max()) <= 1
    return within and abs(float(x.mean()) - 0.5) < 0.05 and abs(float(x.var()) - 1 / 12) < 0.01
