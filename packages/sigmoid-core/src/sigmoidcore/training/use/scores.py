"""Metrics of predictions with 95 % confidence intervals, and what they mean in words.

An accuracy has Wilson's interval; the others have percentiles of a bootstrap over the samples, with a fixed seed.
Values equal scikit-learn's, whose functions would take 6 s for 1,000 resamples of 10,000 samples; these take 0.1 s.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sigmoidcore.training.data import needed
from sigmoidcore.language import _

LEVEL = 0.95
RESAMPLES, FEWEST, DRAWS = 1000, 200, 200_000_000
"""Resamples of the bootstrap: fewer if they have too many samples in all."""
Statistic = Callable[[np.ndarray], float]
"""A metric of some rows, which are indices, [samples]; NaN if undefined."""


@dataclass(frozen=True)
class Score:
    """A metric with its 95 % interval, and its value for one constant answer; NaN if undefined."""

    name: str
    value: float
    low: float
    high: float
    baseline: float = math.nan  # if the answer is always the most frequent class, or the mean

    @property
    def text(self) -> str:
        """The value as text."""
        return self._text(self.value)

    @property
    def interval(self) -> str:
        """The interval as text, or nothing."""
        return f"[{self._text(self.low)}, {self._text(self.high)}]" if math.isfinite(self.low) else ""

    @property
    def baseline_text(self) -> str:
        """The value for the constant answer as text."""
        return self._text(self.baseline)

    def __str__(self) -> str:
        return f"{self.text}  {self.interval}".rstrip()

    def _text(self, value: float) -> str:
        if not math.isfinite(value):
            return _("undefined")
        return f"{100 * value:.1f} %" if self.name in ("accuracy", "macro-F1") else f"{value:.4g}"


def accuracy_score(correct: int, samples: int) -> Score:
    """An accuracy with Wilson's interval (1927, doi:10.1080/01621459.1927.10502953)."""
    interval = needed("scipy.stats", "scipy").binomtest(correct, samples).proportion_ci(LEVEL, "wilson")
    return Score("accuracy", correct / samples, float(interval.low), float(interval.high))


def bootstrap(statistics: Mapping[str, Statistic], samples: int, seed: int = 0) -> tuple[Score, ...]:
    """Values and percentile intervals of several metrics, over the same resamples.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    generator = np.random.default_rng(seed)
    resamples = int(np.clip(DRAWS // samples, FEWEST, RESAMPLES))
    drawn = (generator.integers(samples, size=samples) for _ in range(resamples))
    values = [[statistic(rows) for statistic in statistics.values()] for rows in drawn]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a metric that is undefined in every resample
        low, high = np.nanpercentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    value = [statistic(np.arange(samples)) for statistic in statistics.values()]
    return tuple(map(Score, statistics, value, low.tolist(), high.tolist()))


@dataclass(frozen=True)
class ClassScore:
    """How well a class is recognised."""

    name: str  # of the class
    samples: int  # of this class
    precision: float  # share of the predictions of this class that are correct; NaN without predictions
    recall: float  # share of its samples that were recognised; NaN without samples
    f1: float  # harmonic mean of both; NaN without samples and predictions


def class_scores(probabilities: np.ndarray, targets: np.ndarray) -> tuple[Score, ...]:
    """Accuracy, macro-F1, log loss, and for two classes the area under the ROC curve."""
    samples, classes = probabilities.shape
    shares = np.bincount(targets, minlength=classes) / samples
    accuracy = accuracy_score(int((probabilities.argmax(1) == targets).sum()), samples)
    found = bootstrap(_class_statistics(probabilities, targets), samples)
    constant = _class_statistics(np.tile(shares, (samples, 1)), targets)
    return (replace(accuracy, baseline=float(shares.max())), *_with_baselines(found, constant, samples))


def _with_baselines(scores: tuple[Score, ...], constant: Mapping[str, Statistic], samples: int) -> tuple[Score, ...]:
    """Scores with the values of the constant answer."""
    return tuple(replace(score, baseline=constant[score.name](np.arange(samples))) for score in scores)


def _class_statistics(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, Statistic]:
    samples, classes = probabilities.shape
    guesses = probabilities.argmax(1)
    losses = -np.log(np.clip(probabilities[np.arange(samples), targets], np.finfo(np.float64).eps, 1.0))
    cells = targets * classes + guesses

    def macro_f1(rows: np.ndarray) -> float:
        table = np.bincount(cells[rows], minlength=classes * classes).reshape(classes, classes)
        occurring = (both := table.sum(0) + table.sum(1)) > 0
        return float((2 * table.diagonal()[occurring] / both[occurring]).mean())

    statistics: dict[str, Statistic] = {"macro-F1": macro_f1, "log loss": lambda rows: float(losses[rows].mean())}
    if classes == 2 and len(np.unique(targets)) == 2:
        statistics["AUC"] = _area(probabilities[:, 1], targets)
    return statistics


def _area(scores: np.ndarray, targets: np.ndarray) -> Statistic:
    """The area under the ROC curve: the share of pairs in the right order, ties half."""
    _, ranks = np.unique(scores, return_inverse=True)
    places = 2 * ranks + targets

    def area(rows: np.ndarray) -> float:
        negative, positive = np.bincount(places[rows], minlength=2 * int(ranks.max()) + 2).reshape(-1, 2).T
        pairs = int(negative.sum()) * int(positive.sum())
        return float(positive @ (np.cumsum(negative) - negative / 2)) / pairs if pairs else math.nan

    return area


def number_scores(predictions: np.ndarray, targets: np.ndarray, name: str = "") -> tuple[Score, ...]:
    """Root mean squared error, mean absolute error and R2 of one number."""
    found = bootstrap(_number_statistics(predictions, targets, name), len(targets))
    constant = _number_statistics(np.full_like(targets, targets.mean()), targets, name)
    return _with_baselines(found, constant, len(targets))


def _number_statistics(predictions: np.ndarray, targets: np.ndarray, name: str) -> dict[str, Statistic]:
    squares, sizes = (predictions - targets) ** 2, np.abs(predictions - targets)

    def r2(rows: np.ndarray) -> float:
        variance = float(targets[rows].var())
        return 1 - float(squares[rows].mean()) / variance if variance > 0 else math.nan

    statistics: dict[str, Statistic] = {
        "RMSE": lambda rows: math.sqrt(squares[rows].mean()),
        "MAE": lambda rows: float(sizes[rows].mean()),
        "R2": r2,
    }
    return {f"{metric} of {name}" if name else metric: statistic for metric, statistic in statistics.items()}


GAP = 0.1
"""Least difference of an accuracy, or of R2, between training samples and others that is called overfitting."""
Z = 1.96
"""Standard deviations on each side of a 95 % interval."""


def always(classes: Sequence[ClassScore]) -> str:
    """The constant answer that the scores are compared with: the most frequent class, or the mean."""
    return _("always {name}", name=repr(_most(classes))) if classes else _("always the mean")


def _most(classes: Sequence[ClassScore]) -> str:
    return max(classes, key=lambda c: c.samples).name


def verdicts(scores: Sequence[Score], classes: Sequence[ClassScore], training: float | None) -> tuple[str, ...]:
    """Sentences about scores that are no success; `training` is the accuracy, or R2, on the training samples."""
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
    return _(
        "no better than always saying {name}, which is right for {share} %: train longer (--epochs), or give columns "
        "that tell more",
        name=repr(_most(classes)), share=f"{100 * accuracy.baseline:.1f}",
    )  # fmt: skip


def _no_better_than_mean(r2: Score) -> str:
    if not r2.low <= 0:
        return ""
    name = r2.name.removeprefix("R2").removeprefix(" of ")
    if name:
        return _(
            "no better than always the mean of {name} (R2 {score}): train longer (--epochs), or give columns that tell "
            "more",
            name=name, score=r2.text,
        )  # fmt: skip
    return _(
        "no better than always the mean (R2 {score}): train longer (--epochs), or give columns that tell more",
        score=r2.text,
    )


def _overfits(scores: Sequence[Score], classes: Sequence[ClassScore], training: float | None) -> str:
    compared = scores[:1] if classes else scores[2::3]
    value, high = (sum(getattr(s, name) for s in compared) / len(compared) for name in ("value", "high"))
    if training is None or not (training > high and training - value > GAP):
        return ""
    seen, unseen = (f"{100 * v:.1f} %" if classes else f"{v:.3f}" for v in (training, value))
    return _(
        "overfits: {metric} {seen} on the training samples and {unseen} on these: try --patience 5, a larger "
        "--weight-decay, fewer columns (--drop), or more samples",
        metric=_("accuracy") if classes else "R2", seen=seen, unseen=unseen,
    )  # fmt: skip
