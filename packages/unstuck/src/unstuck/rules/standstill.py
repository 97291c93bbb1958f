"""The standstill of a training: nothing is learned."""

import math
from statistics import fmean

from unstuck.measure.again import Again
from unstuck.measure.calls import BINARY_LOSSES, DIFFERENCES
from unstuck.measure.losses import is_of_a_policy
from unstuck.measure.measurement import Comparison
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question

STUCK_LOSS, UNLEARNED_LOSS, CHANCE_LOSS, NEAR_CHANCE = 0.97, 0.5, 0.95, 0.8
PATIENT_STEPS = 100
FEWEST_LOSSES = 2
"""Losses that are compared with as many, at least: a single one may be anything."""
FITTED_SHARE, FITTED_LOSS = 0.1, 0.02


def fitted(evidence: Evidence) -> bool:
    """Whether the loss is small beside that of a constant answer or, if that is not known, beside the first one."""
    last, comparisons = evidence.latest.loss, evidence.latest.comparisons
    if any(c.function in BINARY_LOSSES and (c.low, c.high) != (0, 1) for c in comparisons):
        return False  # the smallest loss of shares is not 0
    level = constant_level(comparisons[0]) if len(comparisons) == 1 else None
    first = evidence.measurements[0].loss if len(evidence.measurements) > 1 else None
    limit = FITTED_SHARE * level if level is not None else FITTED_LOSS * (first or 0.0)
    return last is not None and 0 <= last < limit


def loss_of_equal_outputs(comparison: Comparison) -> float | None:
    """The cross-entropy of equal outputs; None for another loss, or of a single class."""
    shape = comparison.shape
    if comparison.function in ("cross_entropy", "nll_loss") and shape:
        return math.log(shape[min(1, len(shape) - 1)]) or None
    return math.log(2) if comparison.function in BINARY_LOSSES else None


def constant_level(comparison: Comparison) -> float | None:
    """The loss of the best constant, or of equal outputs; None if it is not known or the targets are all the same."""
    if comparison.function in ("mse_loss", *DIFFERENCES) and not comparison.classes:
        return comparison.target_deviation**2 or None
    return loss_of_equal_outputs(comparison) if comparison.varied else None


def falling(evidence: Evidence, limit: float = math.inf) -> bool:
    """Whether the loss is positive and below a limit, and now less than half of what it was at first."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    return len(losses) > 1 and 0 < losses[-1] < min(limit, UNLEARNED_LOSS * losses[0])


def untaught(evidence: Evidence, steps: int = PATIENT_STEPS) -> bool:
    """Whether nothing was learned in this number of steps, and the loss is where it began."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    patient = (evidence.latest.step or 0) >= steps - 1
    return patient and unlearned(evidence) and losses[-1] > STUCK_LOSS * losses[0]


def stalled(evidence: Evidence) -> bool:
    """Whether nothing was learned in all measurements, or in the first half of them."""
    half = evidence.measurements[: len(evidence.measurements) // 2]
    return unlearned(evidence) or (bool(half) and unlearned(Evidence(half)))


@question
def of_a_policy(again: Again) -> bool:
    """Whether the loss is that of a policy, which need not fall: what it weighs by follows the policy."""
    return any(map(is_of_a_policy, again.step.losses))


def unlearned(evidence: Evidence) -> bool:
    """Whether the loss is where it was at the start, or at chance, and does not fall any more."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    quarter = max(FEWEST_LOSSES, len(losses) // 4)
    if not evidence.lasts or len(losses) < 3 * quarter or not all(0 < loss < math.inf for loss in losses):
        return False
    if evidence.ask(of_a_policy):
        return False
    parts = losses[quarter : 2 * quarter], losses[-quarter:]
    second, last = map(fmean, parts)
    squares = ((loss - mean) ** 2 for mean, part in zip((second, last), parts, strict=True) for loss in part)
    noise = math.sqrt(sum(squares)) / quarter
    limit = min(UNLEARNED_LOSS * losses[0], CHANCE_LOSS * chance(evidence))
    return last >= STUCK_LOSS * second - noise and last >= limit


def at_chance(evidence: Evidence) -> bool:
    """Whether a training of classes has learned nothing: the loss is that of equal outputs."""
    late = [m.loss for m in evidence.measurements if m.loss is not None][-FEWEST_LOSSES:]
    level = chance(evidence)  # sums of several losses are larger
    return unlearned(evidence) and CHANCE_LOSS * level < fmean(late) < level / CHANCE_LOSS**2


def chance(evidence: Evidence) -> float:
    """The cross-entropy of equal outputs; inf without one."""
    of_classes = (c for c in evidence.latest.comparisons if c.function not in BINARY_LOSSES)
    return min((level for c in of_classes if (level := loss_of_equal_outputs(c))), default=math.inf)
