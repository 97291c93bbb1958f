"""What the scores mean, in words: no better than one constant answer, or overfitting."""

import math
from collections.abc import Sequence

from sigmoidcore.training.use.scores import ClassScore, Score

GAP = 0.1
"""Least difference of an accuracy, or of R2, between training samples and others that is called overfitting."""
Z = 1.96
"""Standard deviations on each side of a 95 % interval."""
ALWAYS_THE_MEAN = "always the mean"


def always(classes: Sequence[ClassScore]) -> str:
    """The constant answer that the scores are compared with: the most frequent class, or the mean.

    Example:
        >>> always([ClassScore("no", 96, 1, 1, 1), ClassScore("yes", 4, 1, 1, 1)]), always([])
        ("always 'no'", 'always the mean')
    """
    return f"always {max(classes, key=lambda c: c.samples).name!r}" if classes else ALWAYS_THE_MEAN


def verdicts(scores: Sequence[Score], classes: Sequence[ClassScore], training: float | None) -> tuple[str, ...]:
    """Sentences for the user about scores that are no success.

    Args:
        scores: of the samples, as `class_scores` or `number_scores` makes them.
        classes: of each class; empty for numbers.
        training: accuracy, or R2, on the training samples; None if unknown.
    """
    found = [_no_better(scores[0], classes)] if classes else [_no_better_than_mean(s) for s in scores[2::3]]
    found.append(_overfits(scores, classes, training))
    return tuple(sentence for sentence in found if sentence)


def _no_better(accuracy: Score, classes: Sequence[ClassScore]) -> str:
    """Both the accuracy and the mean recall have to be above those of the constant answer, which may be by chance."""
    present = [c for c in classes if c.samples]
    mean = sum(c.recall for c in present) / len(present)
    error = math.sqrt(sum(c.recall * (1 - c.recall) / c.samples for c in present)) / len(present)
    if len(present) < 2 or accuracy.low > accuracy.baseline or mean - Z * error > 1 / len(present):
        return ""
    return (
        f"no better than {always(classes).replace('always', 'always saying', 1)}, which is right for "
        f"{100 * accuracy.baseline:.1f} %: train longer (--epochs), or give columns that tell more"
    )


def _no_better_than_mean(r2: Score) -> str:
    if not r2.low <= 0:
        return ""
    name = r2.name.removeprefix("R2").removeprefix(" of ")
    return (
        f"no better than {ALWAYS_THE_MEAN}{f' of {name}' if name else ''} (R2 {r2.text}): train longer (--epochs), or "
        "give columns that tell more"
    )


def _overfits(scores: Sequence[Score], classes: Sequence[ClassScore], training: float | None) -> str:
    compared = scores[:1] if classes else scores[2::3]
    value, high = (sum(getattr(s, name) for s in compared) / len(compared) for name in ("value", "high"))
    if training is None or not (training > high and training - value > GAP):
        return ""
    seen, unseen = (f"{100 * v:.1f} %" if classes else f"{v:.3f}" for v in (training, value))
    return (
        f"overfits: {'accuracy' if classes else 'R2'} {seen} on the training samples and {unseen} on these: try "
        "--patience 5, a larger --weight-decay, fewer columns (--drop), or more samples"
    )
