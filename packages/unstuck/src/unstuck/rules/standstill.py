"""The standstill of a training: nothing is learned."""

import math
from statistics import fmean

from unstuck.measure.calls import BINARY_LOSSES, CLASS_LOSSES, DIFFERENCES, REGRESSION_LOSSES
from unstuck.measure.measurement import Comparison, Measurement
from unstuck.rules.evidence import Evidence

REGRESSION = REGRESSION_LOSSES | DIFFERENCES
"""Losses that compare numbers with numbers."""
STUCK_LOSS, UNLEARNED_LOSS, CHANCE_LOSS = 0.97, 0.5, 0.95
PATIENT_STEPS, PATIENT_MEASUREMENTS = 100, 10

LARGE_LOGITS, WORSE_THAN_EQUAL, FAR_OFF, LOST = 5.0, 3.0, 10.0, 100.0
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


def loss_of_equal_outputs(comparison: Comparison) -> float | None:
    """The cross-entropy of equal logits; None for another loss, or of a single class."""
    shape = comparison.shape
    if comparison.function in ("cross_entropy", "nll_loss") and shape:
        return math.log(shape[min(1, len(shape) - 1)]) or None
    return math.log(2) if comparison.function == "binary_cross_entropy_with_logits" else None


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


def overshoots(measurement: Measurement) -> float | None:
    """How many times the loss is larger than that of equal logits, if large outputs are the reason; else None."""
    loss, comparisons = measurement.loss, measurement.comparisons
    if loss is None or len(comparisons) != 1 or not comparisons[0].output_rms > LARGE_LOGITS:
        return None
    normalised = comparisons[0].function == "nll_loss" and any(x.read_by == "log_softmax" for x in measurement.layers)
    if comparisons[0].reads is None and not normalised:
        return None  # computed from outputs, such as similarities over a temperature
    guess = loss_of_equal_outputs(comparisons[0])
    return loss / guess if guess and WORSE_THAN_EQUAL * guess < loss < math.inf else None


def start_far_off(evidence: Evidence) -> bool:
    """Whether the first outputs are far larger than the targets of a regression, or as wrong as large logits are."""
    first = evidence.measurements[0]
    numbers = (c for c in first.comparisons if c.function in REGRESSION and not c.classes)
    return any(c.output_rms > FAR_OFF * c.target_rms for c in numbers) or (overshoots(first) or 0.0) > LOST
