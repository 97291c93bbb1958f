"""The standstill of a training: nothing is learned."""

import math
from statistics import mean, pvariance

from sigmoidcore.diagnosis.rules.evidence import Evidence

STUCK_LOSS, UNLEARNED_LOSS, CHANCE_LOSS = 0.97, 0.5, 0.95


def stalled(evidence: Evidence) -> bool:
    """Whether nothing was learned in all measurements, or in the first half of them."""
    half = evidence.measurements[: len(evidence.measurements) // 2]
    return unlearned(evidence) or (bool(half) and unlearned(Evidence(half)))


def unlearned(evidence: Evidence) -> bool:
    """Whether the loss is where it was at the start, or at chance, and does not fall any more."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    quarter = len(losses) // 4
    if not quarter or not all(0 < loss < math.inf for loss in losses):
        return False
    second, last = mean(losses[quarter : 2 * quarter]), mean(losses[-quarter:])
    noise = math.sqrt((pvariance(losses[quarter : 2 * quarter]) + pvariance(losses[-quarter:])) / quarter)
    classes = [c.shape[1] for c in evidence.latest.comparisons if c.function == "cross_entropy" and len(c.shape) > 1]
    chance = CHANCE_LOSS * math.log(min(classes)) if classes else math.inf
    return last >= STUCK_LOSS * second - noise and last >= min(UNLEARNED_LOSS * losses[0], chance)
