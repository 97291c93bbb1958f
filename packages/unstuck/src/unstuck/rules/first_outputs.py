"""The outputs at the start of a training: far larger than those of a guess."""

import math

from unstuck.measure.calls import DIFFERENCES, REGRESSION_LOSSES
from unstuck.measure.measurement import Comparison, Measurement
from unstuck.rules.evidence import Evidence

REGRESSION = REGRESSION_LOSSES | DIFFERENCES
"""Losses that compare numbers with numbers."""
LARGE_LOGITS, WORSE_THAN_EQUAL = 5.0, 3.0
FAR_OFF, LOST = 10.0, 100.0


def loss_of_equal_outputs(comparison: Comparison) -> float | None:
    """The cross-entropy of equal logits; None for another loss, or of a single class."""
    shape = comparison.shape
    if comparison.function in ("cross_entropy", "nll_loss") and shape:
        return math.log(shape[min(1, len(shape) - 1)]) or None
    return math.log(2) if comparison.function == "binary_cross_entropy_with_logits" else None


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
