"""The standstill of a training: nothing is learned."""

import math
from statistics import fmean

from unstuck.measure.calls import BINARY_LOSSES, CLASS_LOSSES
from unstuck.measure.measurement import Comparison
from unstuck.rules.evidence import Evidence
from unstuck.rules.first_outputs import REGRESSION, loss_of_equal_outputs

STUCK_LOSS, UNLEARNED_LOSS, CHANCE_LOSS, SLOW_LOSS = 0.97, 0.5, 0.95, 0.8
PATIENT_STEPS, PATIENT_MEASUREMENTS = 100, 10

FEWEST_LOSSES = 2
"""Losses of a quarter of the measurements: a single one may be anything."""
FITTED_SHARE, FITTED_LOSS = 0.1, 0.02
LEARNED_LOSS, LEARNED_SHARE = 0.1, 0.2
"""A loss for classification is below these only if nearly all predictions are right."""


def learned(evidence: Evidence) -> bool:
    """Whether the loss is small: in nats, or beside the first that was measured or that of a constant answer."""
    latest, first = evidence.latest, evidence.measurements[0].loss
    last, comparisons = latest.loss, latest.comparisons
    if last is None or first is None or not last >= 0:
        return False
    level = constant_level(comparisons[0]) if len(comparisons) == 1 else None
    share = LEARNED_LOSS if comparisons and comparisons[0].function in REGRESSION else LEARNED_SHARE
    small = latest.loss_function in CLASS_LOSSES and last < LEARNED_LOSS
    return small or last < LEARNED_LOSS * first or (level is not None and last < share * level)


def fitted(evidence: Evidence) -> bool:
    """Whether the loss is small beside that of a constant answer or, if that is not known, beside the first one."""
    last, comparisons = evidence.latest.loss, evidence.latest.comparisons
    if any(c.function in BINARY_LOSSES and (c.low, c.high) != (0, 1) for c in comparisons):
        return False  # the smallest loss of shares is not 0
    level = constant_level(comparisons[0]) if len(comparisons) == 1 else None
    first = evidence.measurements[0].loss if len(evidence.measurements) > 1 else None
    limit = FITTED_SHARE * level if level is not None else FITTED_LOSS * (first or 0.0)
    return last is not None and 0 <= last < limit


def constant_level(comparison: Comparison) -> float | None:
    """The loss of the best constant, or of equal outputs; None if it is not known or the targets are all the same."""
    if comparison.function in REGRESSION and not comparison.classes:
        squared = comparison.function not in ("l1_loss", "smooth_l1_loss", "huber_loss")
        return comparison.target_deviation**2 or None if squared else None
    share = comparison.target_rms**2  # of ones among the labels
    if comparison.function in BINARY_LOSSES and (comparison.low, comparison.high) == (0, 1) and 0 < share < 1:
        return -share * math.log(share) - (1 - share) * math.log1p(-share)
    level = math.log(2) if comparison.function == "binary_cross_entropy" else loss_of_equal_outputs(comparison)
    return level if comparison.varied else None


def stalled(evidence: Evidence) -> bool:
    """Whether nothing was learned in all measurements, or in the first half of them."""
    half = evidence.measurements[: len(evidence.measurements) // 2]
    return unlearned(evidence) or (bool(half) and unlearned(Evidence(half)))


def hardly_fallen(evidence: Evidence) -> bool:
    """Whether the loss of the last quarter of the measurements is nearly that of the first."""
    quarters = _quarters(evidence)
    return bool(quarters) and fmean(quarters[-1]) >= SLOW_LOSS * fmean(quarters[0])


def falls(evidence: Evidence) -> bool:
    """Whether the loss of the last quarter of the measurements is half of that of the first, and below the second's."""
    quarters = [fmean(losses) for losses in _quarters(evidence)]
    return bool(quarters) and quarters[-1] < min(UNLEARNED_LOSS * quarters[0], STUCK_LOSS * quarters[1])


def _quarters(evidence: Evidence) -> list[list[float]]:
    """The losses of the first, the second and the last quarter of the measurements, if known, above 0 and not few."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    quarter = len(losses) // 4
    if quarter < FEWEST_LOSSES or not all(0 < loss < math.inf for loss in losses):
        return []
    return [losses[:quarter], losses[quarter : 2 * quarter], losses[-quarter:]]


def unlearned(evidence: Evidence) -> bool:
    """Whether the loss is where it was at the start, or at chance, and does not fall any more."""
    quarters = _quarters(evidence)
    if not quarters:
        return False
    first, (second, last) = quarters[0][0], map(fmean, quarters[1:])
    squares = ((loss - level) ** 2 for level, losses in ((second, quarters[1]), (last, quarters[2])) for loss in losses)
    noise = math.sqrt(sum(squares)) / len(quarters[1])
    of_classes = [c for c in evidence.latest.comparisons if c.function not in BINARY_LOSSES and len(c.shape) > 1]
    chance = CHANCE_LOSS * min((level for c in of_classes if (level := loss_of_equal_outputs(c))), default=math.inf)
    return last >= STUCK_LOSS * second - noise and last >= min(UNLEARNED_LOSS * first, chance)
