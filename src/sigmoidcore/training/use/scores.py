"""Metrics of predictions, by scikit-learn, with 95 % confidence intervals.

An accuracy has Wilson's interval; the others have percentiles of a bootstrap over the samples, with a fixed seed. A
resample is a weight for each sample, so that the metrics of all resamples need no sorting or copying; scikit-learn's
functions take a hundred times longer for this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigmoidcore.training.data import needed

LEVEL = 0.95
"""Confidence level."""
RESAMPLES, FEWEST = 1000, 200
"""Resamples of the bootstrap, and of very many samples, whose interval is narrow."""
DRAWS = 200_000_000
"""Samples in all resamples, unless the fewest resamples need more."""

Statistic = Callable[[np.ndarray], float]
"""A metric of a resample, from the number of times that it contains each sample, [samples]."""


@dataclass(frozen=True)
class Score:
    """A metric.

    Attributes:
        name: in words.
        value: of all samples.
        low: lower end of the 95 % interval, or NaN.
        high: upper end.
        percent: whether the value is a fraction, which is shown in percent.
    """

    name: str
    value: float
    low: float
    high: float
    percent: bool = False


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a fraction.

    Example:
        >>> [round(end, 4) for end in wilson(8, 10)]
        [0.4902, 0.9433]

    Source:
        Wilson (1927), doi:10.1080/01621459.1927.10502953; scipy.stats.binomtest.
    """
    interval = needed("scipy.stats", "scipy").binomtest(correct, count).proportion_ci(LEVEL, "wilson")
    return float(interval.low), float(interval.high)


def bootstrap(statistics: Sequence[Statistic], count: int, seed: int = 0) -> list[tuple[float, float]]:
    """Percentile intervals of several statistics, over the same resamples; undefined statistics are left out.

    Args:
        statistics: of a resample, NaN if undefined.
        count: number of samples.
        seed: of the resamples.

    Example:
        >>> values = np.arange(100.0)
        >>> low, high = bootstrap([lambda drawn: float(drawn @ values / 100)], 100)[0]
        >>> 43 < low < 45 and 54 < high < 56
        True

    Source:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    generator = np.random.default_rng(seed)
    resamples = int(np.clip(DRAWS // max(count, 1), FEWEST, RESAMPLES))
    found = np.empty((resamples, len(statistics)))
    for row in found:
        drawn = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
        row[:] = [statistic(drawn) for statistic in statistics]
    intervals = []
    for values in found.T:
        defined = values[np.isfinite(values)]
        ends = [(1 - LEVEL) / 2 * 100, (1 + LEVEL) / 2 * 100]
        low, high = np.percentile(defined, ends) if len(defined) else (np.nan, np.nan)
        intervals.append((float(low), float(high)))
    return intervals


def class_scores(probabilities: np.ndarray, targets: np.ndarray) -> tuple[Score, ...]:
    """Accuracy, macro-F1, log loss, and for two classes the area under the ROC curve.

    Args:
        probabilities: float64, [samples, classes].
        targets: class numbers, [samples].
    """
    metrics = needed("sklearn.metrics", "scikit-learn")
    samples, classes = probabilities.shape
    labels, guesses = np.arange(classes), probabilities.argmax(1)
    losses = -np.log(np.clip(probabilities[np.arange(samples), targets], np.finfo(np.float64).eps, 1.0))
    cells = targets * classes + guesses

    def macro_f1(drawn: np.ndarray) -> float:
        return f1_of(np.bincount(cells, drawn, classes * classes).reshape(classes, classes))

    statistics: list[Statistic] = [macro_f1, lambda drawn: float(drawn @ losses / samples)]
    values = [
        ("macro-F1", f1_of(metrics.confusion_matrix(targets, guesses, labels=labels)), True),
        ("log loss", metrics.log_loss(targets, probabilities, labels=labels), False),
    ]
    if classes == 2 and len(np.unique(targets)) == 2:
        statistics.append(auc(probabilities[:, 1], targets))
        values.append(("AUC", metrics.roc_auc_score(targets, probabilities[:, 1]), False))
    correct = int((guesses == targets).sum())
    scores = [Score("accuracy", correct / samples, *wilson(correct, samples), percent=True)]
    for (name, value, percent), interval in zip(values, bootstrap(statistics, samples), strict=True):
        scores.append(Score(name, float(value), *interval, percent))
    return tuple(scores)


def f1_of(table: np.ndarray) -> float:
    """Macro-F1 of a confusion matrix, [classes, classes]: the mean over the classes that occur or were predicted.

    Example:
        >>> round(f1_of(np.array([[1, 1], [0, 2]])), 4)
        0.7333
    """
    both = table.sum(0) + table.sum(1)
    return float((2 * table.diagonal()[both > 0] / both[both > 0]).mean())


def auc(scores: np.ndarray, targets: np.ndarray) -> Statistic:
    """The area under the ROC curve as a statistic of resamples: the share of pairs in the right order, ties half.

    Example:
        >>> area = auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        >>> area(np.ones(4)), area(np.array([1.0, 0, 1, 2]))
        (0.75, 1.0)
    """
    _, ranks = np.unique(scores, return_inverse=True)
    size = int(ranks.max()) + 1

    def area(drawn: np.ndarray) -> float:
        negative = np.bincount(ranks, drawn * (targets == 0), size)
        positive = np.bincount(ranks, drawn * (targets == 1), size)
        pairs = negative.sum() * positive.sum()
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs) if pairs else float("nan")

    return area


def number_scores(predictions: np.ndarray, targets: np.ndarray, name: str = "") -> tuple[Score, ...]:
    """Root mean squared error, mean absolute error and R2 of one number.

    Args:
        predictions: float64, [samples].
        targets: the same.
        name: of the target, if there are several.
    """
    metrics = needed("sklearn.metrics", "scikit-learn")
    samples = len(targets)
    error, centred = predictions - targets, targets - targets.mean()
    squares, sizes, centred_squares = error**2, np.abs(error), centred**2

    def r2(drawn: np.ndarray) -> float:
        variation = float(drawn @ centred_squares) - float(drawn @ centred) ** 2 / samples
        return 1 - float(drawn @ squares) / variation if variation > 0 else float("nan")

    statistics: list[Statistic] = [
        lambda drawn: float(np.sqrt(drawn @ squares / samples)), lambda drawn: float(drawn @ sizes / samples), r2,
    ]  # fmt: skip
    values: list[tuple[str, Any]] = [
        ("RMSE", np.sqrt(metrics.mean_squared_error(targets, predictions))),
        ("MAE", metrics.mean_absolute_error(targets, predictions)),
        ("R2", metrics.r2_score(targets, predictions) if centred_squares.any() else float("nan")),
    ]
    return tuple(
        Score(f"{what} of {name}" if name else what, float(value), *interval)
        for (what, value), interval in zip(values, bootstrap(statistics, samples), strict=True)
    )
