"""Metrics equal scikit-learn's, also on every resample; the bootstrap equals SciPy's."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn import metrics
from sklearn.dummy import DummyClassifier

from sigmoidcore.training.use import Score, scores


def classified(samples, classes):
    """Probabilities that depend on the classes, some of them equal, and the classes."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, classes, samples)
    logits = generator.normal(size=(samples, classes)).round(1)
    logits[np.arange(samples), targets] += 1
    return scipy.special.softmax(logits, axis=1), targets


def percentiles(values):
    return pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def assert_equal_on_resamples(monkeypatch, found, expected, samples):
    """Compare values and intervals with metrics of scikit-learn, which are functions of rows."""
    monkeypatch.setattr(scores, "RESAMPLES", 60)
    monkeypatch.setattr(scores, "FEWEST", 60)
    generator = np.random.default_rng(0)
    resamples = [generator.integers(samples, size=samples) for _ in range(60)]
    compared = {score.name: score for score in found() if score.name != "accuracy"}
    assert compared.keys() == expected.keys()
    for name, metric in expected.items():
        assert compared[name].value == pytest.approx(metric(np.arange(samples)))
        assert (compared[name].low, compared[name].high) == percentiles([metric(rows) for rows in resamples])


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_of_classes_equal_those_of_scikit_learn(monkeypatch, classes):
    p, y = classified(60, classes)
    expected = {
        "macro-F1": lambda rows: metrics.f1_score(y[rows], p[rows].argmax(1), average="macro"),
        "log loss": lambda rows: metrics.log_loss(y[rows], p[rows], labels=np.arange(classes)),
    }
    if classes == 2:
        expected["AUC"] = lambda rows: metrics.roc_auc_score(y[rows], p[rows, 1])
    assert_equal_on_resamples(monkeypatch, lambda: scores.class_scores(p, y), expected, 60)
    accuracy = scores.class_scores(p, y)[0]
    assert accuracy.value == metrics.accuracy_score(y, p.argmax(1))


def test_baselines_are_those_of_a_constant_answer():
    p, y = classified(60, 2)
    dummy = DummyClassifier(strategy="prior").fit(y[:, None], y)
    constant = np.tile(dummy.class_prior_, (60, 1))
    expected = {
        "accuracy": dummy.score(y[:, None], y),
        "macro-F1": metrics.f1_score(y, constant.argmax(1), average="macro"),
        "log loss": metrics.log_loss(y, constant),
        "AUC": 0.5,
    }
    assert {score.name: score.baseline for score in scores.class_scores(p, y)} == pytest.approx(expected)
    numbers = np.random.default_rng(0).normal(50, 9, 40)
    found = {score.name: score.baseline for score in scores.number_scores(numbers + 1, numbers)}
    mean = np.full(40, numbers.mean())
    assert found == pytest.approx(
        {"RMSE": numbers.std(), "MAE": metrics.mean_absolute_error(numbers, mean), "R2": 0.0}, abs=1e-12
    )


def test_metrics_of_numbers_equal_those_of_scikit_learn(monkeypatch):
    generator = np.random.default_rng(0)
    y = generator.normal(50, 9, 40)
    guesses = y + generator.normal(1, 3, 40)
    names = {
        "RMSE": metrics.root_mean_squared_error,
        "MAE": metrics.mean_absolute_error,
        "R2": metrics.r2_score,
    }
    expected = {
        f"{name} of price": lambda rows, metric=metric: metric(y[rows], guesses[rows]) for name, metric in names.items()
    }
    assert_equal_on_resamples(monkeypatch, lambda: scores.number_scores(guesses, y, "price"), expected, 40)
    assert [score.name for score in scores.number_scores(guesses, y)] == list(names)


@pytest.mark.parametrize(("correct", "count"), [(0, 5), (5, 5), (37, 50), (9_000, 10_000)])
def test_the_interval_of_an_accuracy_follows_wilsons_formula(correct, count):
    z, share = scipy.stats.norm.ppf(0.975), correct / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    found = scores.accuracy_score(correct, count)
    assert (found.low, found.high) == pytest.approx((max(middle - half, 0), min(middle + half, 1)), abs=1e-12)


def test_the_bootstrap_agrees_with_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=400)
    (found,) = scores.bootstrap({"mean": lambda rows: float(values[rows].mean())}, 400)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_very_many_samples_get_fewer_resamples(monkeypatch):
    monkeypatch.setattr(scores, "DRAWS", 50_000)
    sizes = []
    scores.bootstrap({"size": lambda rows: sizes.append(len(rows)) or 0.0}, 100)
    assert sizes == [100] * 501


def test_an_undefined_metric_has_no_interval():
    one_class = scores.class_scores(np.array([[0.9, 0.1]] * 5), np.zeros(5, dtype=int))
    assert [score.name for score in one_class] == ["accuracy", "macro-F1", "log loss"]
    r2 = scores.number_scores(np.array([1.0, 2.0]), np.array([3.0, 3.0]))[2]
    assert math.isnan(r2.value)
    assert math.isnan(r2.low)
    assert str(r2) == "undefined"


def test_a_score_is_written_with_its_significant_digits():
    assert str(Score("accuracy", 0.91234, 0.9, 0.95)) == "91.2 %  [90.0 %, 95.0 %]"
    assert str(Score("RMSE", 12.34567, 11.0, 14.0)) == "12.35  [11, 14]"
