"""Metrics of predictions with 95 % confidence intervals; the tests compare them with scikit-learn and SciPy.

An accuracy has Wilson's interval; the others have percentiles of a bootstrap over the samples, with a fixed seed. A
metric is a function of a weight for each sample, so that a resample needs no sorting or copying; scikit-learn's
functions take a hundred times longer for this.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sigmoidcore.training.data import needed

LEVEL = 0.95
"""Confidence level."""
RESAMPLES, FEWEST = 1000, 200
"""Resamples of the bootstrap, and of very many samples, whose interval is narrow."""
DRAWS = 200_000_000
"""Samples in all resamples, unless the fewest resamples need more."""

Statistic = Callable[[np.ndarray], float]
"""A metric from the number of times that each sample is drawn, [samples]; NaN if undefined."""


@dataclass(frozen=True)
class Score:
    """A metric."""

    name: str  # in words
    value: float  # of all samples
    low: float  # lower end of the 95 % interval, or NaN
    high: float  # upper end
    percent: bool = False  # whether the value is a fraction, which is shown in percent


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a fraction (1927, doi:10.1080/01621459.1927.10502953).

    Example:
        >>> [round(end, 4) for end in wilson(8, 10)]
        [0.4902, 0.9433]
    """
    interval = needed("scipy.stats", "scipy").binomtest(correct, count).proportion_ci(LEVEL, "wilson")
    return float(interval.low), float(interval.high)


def bootstrap(statistics: Mapping[str, Statistic], count: int, seed: int = 0) -> list[Score]:
    """Values and percentile intervals of several metrics, over the same resamples.

    Example:
        >>> values = np.arange(100.0)
        >>> score = bootstrap({"mean": lambda drawn: float(drawn @ values / 100)}, 100)[0]
        >>> score.value, 43 < score.low < 45, 54 < score.high < 56
        (49.5, True, True)

    Source:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    generator = np.random.default_rng(seed)
    resamples = np.empty((int(np.clip(DRAWS // max(count, 1), FEWEST, RESAMPLES)), len(statistics)))
    for row in resamples:
        drawn = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
        row[:] = [statistic(drawn) for statistic in statistics.values()]
    scores = []
    for (name, statistic), values in zip(statistics.items(), resamples.T, strict=True):
        defined = values[np.isfinite(values)]
        ends = np.percentile(defined, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]) if len(defined) else [np.nan, np.nan]
        scores.append(Score(name, statistic(np.ones(count)), float(ends[0]), float(ends[1]), name == "macro-F1"))
    return scores


def class_scores(probabilities: np.ndarray, targets: np.ndarray) -> tuple[Score, ...]:
    """Accuracy, macro-F1, log loss, and for two classes the area under the ROC curve."""
    samples, classes = probabilities.shape
    guesses = probabilities.argmax(1)
    correct = int((guesses == targets).sum())
    likelihoods = probabilities[np.arange(samples), targets]
    losses = -np.log(np.clip(likelihoods, np.finfo(np.float64).eps, 1.0))
    cells = targets * classes + guesses

    def macro_f1(drawn: np.ndarray) -> float:
        return f1_of(np.bincount(cells, drawn, classes * classes).reshape(classes, classes))

    statistics: dict[str, Statistic] = {
        "macro-F1": macro_f1,
        "log loss": lambda drawn: float(drawn @ losses / samples),
    }
    if classes == 2 and len(np.unique(targets)) == 2:
        statistics["AUC"] = auc(probabilities[:, 1], targets)
    accuracy = Score("accuracy", correct / samples, *wilson(correct, samples), percent=True)
    return (accuracy, *bootstrap(statistics, samples))


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
    """Root mean squared error, mean absolute error and R2 of one number."""
    samples = len(targets)
    error, centred = predictions - targets, targets - targets.mean()
    squares, sizes, centred_squares = error**2, np.abs(error), centred**2

    def r2(drawn: np.ndarray) -> float:
        variation = float(drawn @ centred_squares) - float(drawn @ centred) ** 2 / samples
        return 1 - float(drawn @ squares) / variation if variation > 0 else float("nan")

    statistics: dict[str, Statistic] = {
        "RMSE": lambda drawn: float(np.sqrt(drawn @ squares / samples)),
        "MAE": lambda drawn: float(drawn @ sizes / samples),
        "R2": r2,
    }
    named = {f"{metric} of {name}" if name else metric: statistic for metric, statistic in statistics.items()}
    return tuple(bootstrap(named, samples))
