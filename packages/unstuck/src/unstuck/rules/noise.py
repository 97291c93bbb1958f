"""What a denoiser learns from: how much of what it reads is the noise that it is asked for, and how that is drawn."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import Again, kinds
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.wording import number

COVERED = 0.9
"""Correlation with the noise where there is most of it: usual schedules have more than 0.99."""
FEWEST, ENDS, NEAR = 64, 0.05, 4
"""Samples; the share of them that have the smallest, or the largest times; those that have nearly the same time."""
RISES, DROWNED = 0.15, 0.8
"""How much the correlation depends on the time, at least, unless it is larger than this at all times."""

REACH_NOISE = (
    "Let the data vanish at the last time: more steps or larger betas, and the product of all alphas; nothing to do if "
    "nothing is sampled from noise."
)
DRAW_NORMAL = "Use `torch.randn_like` in place of `torch.rand_like`."
SCALE_DATA = "Scale the data, or the latents of an autoencoder, to a standard deviation of about 1."


@rule("US711", "noise that does not fit", remedy=REACH_NOISE, hidden_by=("US401", "US606"), mistake=True)
def unfit_noise(evidence: Evidence) -> Found | None:
    """A denoiser never sees what it has to begin with, or hardly sees the data."""
    found = evidence.ask(noise)
    if found is None:
        return None
    if found.uniform:
        return shown(_("The noise is uniform between 0 and 1, and sampling begins with normal numbers."), DRAW_NORMAL)
    low, high = found.low, found.high
    if high < COVERED:
        text = _("Where there is most noise, the correlation of what the denoiser reads with it is only {share}.",
                 share=number(high))  # fmt: skip
        return shown(text, value=high)
    if low > DROWNED:
        text = _("At all times, the correlation of what the denoiser reads with the noise is {share} or more.",
                 share=number(low))  # fmt: skip
        return shown(text, SCALE_DATA, value=low)
    return None


@dataclass(frozen=True)
class Noise:
    """The noise that a denoiser is asked for."""

    low: float  # correlation of what it reads with the noise at the times with the least of it
    high: float  # and with the most
    uniform: bool = False  # it is uniform between 0 and 1


@question
def noise(again: Again) -> Noise | None:
    """The correlations of a denoiser's inputs with the noise at both ends of times, and whether that is uniform."""
    own = [again, *(again.other(step) for step in again.earlier)]
    found = [triple for one in own for triple in _asked(one)]
    numbers = len(found[0][2]) if found else 0
    known = [triple for triple in found if triple[0].shape[1:] == found[0][0].shape[1:] and len(triple[2]) == numbers]
    if sum(len(x) for x, _noise, _numbers in known) < FEWEST:
        return None
    read = torch.cat([one.flatten(1) for one, _noise, _numbers in known]).double()
    noise = torch.cat([one.flatten(1) for _read, one, _numbers in known]).double()
    normal, uniform = _is_normal(noise), _is_uniform(noise)
    noise = noise - 0.5 if uniform else noise
    for i in range(numbers if normal or uniform else 0):
        order = torch.cat([triple[2][i].flatten() for triple in known]).argsort()
        order, count = order[: len(order) // NEAR * NEAR], max(FEWEST // 4, int(ENDS * len(order)))
        near = torch.nn.functional.normalize(read[order].reshape(len(order) // NEAR, -1)).reshape(len(order), -1)
        ends = slice(count), slice(-count, None)
        pairs = ((near[end].flatten(), noise[order][end].flatten()) for end in ends)
        low, high = sorted(float(torch.nn.functional.cosine_similarity(*pair, dim=0)) for pair in pairs)
        if high - low > RISES or low > DROWNED:
            return Noise(low, high, uniform)
    return None


def _asked(again: Again) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """What a network reads, the numbers of that shape that it is asked for, and its inputs of one number a sample."""
    inputs = [n.value for n in again.given if n.value is not None and any(user.module is not None for user in n.users)]
    numbers = [x.double() for x in inputs if math.prod(x.shape[1:]) == 1 and len(kinds(x)) > 2]
    compared = (n for n in again.step.of_loss(*calls.COMPARISONS) if n.module is None and n.requires_grad)
    for target in (read.through(calls.KEEP_PLACES).value for node in compared for read in node.reads[:2]):
        same = (x for x in inputs if target is not None and x.shape == target.shape and math.prod(x.shape[1:]) > 1)
        yield from ((x, target, numbers) for x in same if x.is_floating_point() and target is not None and numbers)


def _is_normal(x: Tensor) -> bool:
    """Whether numbers have the moments of the standard normal distribution, to four standard errors."""
    square, count = float(x.square().mean()), x.numel()
    moments = (float(x.mean()), 0.0, 1.0), (square, 1.0, 2.0), (float(x.pow(4).mean()) / square**2, 3.0, 24.0)
    return all(abs(found - usual) < max(0.1, 4 * math.sqrt(var / count)) for found, usual, var in moments)


def _is_uniform(x: Tensor) -> bool:
    """Whether numbers have the bounds and the first moments of the uniform distribution from 0 to 1."""
    within = float(x.min()) >= 0 and 0.9 < float(x.max()) <= 1
    return within and abs(float(x.mean()) - 0.5) < 0.05 and abs(float(x.var()) - 1 / 12) < 0.01
