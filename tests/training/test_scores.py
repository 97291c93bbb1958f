"""Metrics are scikit-learn's; intervals are those of other programs, or of scikit-learn on the same resamples."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from sigmoidcore.training.use.scores import auc, bootstrap, class_scores, f1_of, number_scores, wilson


def made_up(samples=300, classes=3, seed=0):
    """Probabilities that have something to do with the classes, and ties among them."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, samples)
    scores = generator.normal(size=(samples, classes)).round(1)
    scores[np.arange(samples), targets] += 1
    return scipy.special.softmax(scores, axis=1), targets


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (37, 50), (9_000, 10_000)])
def test_wilsons_interval_is_that_of_his_formula(right, count):
    z = scipy.stats.norm.ppf(0.975)
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    assert wilson(right, count) == pytest.approx((max(middle - half, 0), min(middle + half, 1)), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_values_of_classes_are_those_of_scikit_learn(classes):
    probabilities, targets = made_up(classes=classes)
    found = {score.name: score.value for score in class_scores(probabilities, targets)}
    guesses = probabilities.argmax(1)
    expected = {
        "accuracy": metrics.accuracy_score(targets, guesses),
        "macro-F1": metrics.f1_score(targets, guesses, average="macro"),
        "log loss": metrics.log_loss(targets, probabilities),
    }
    if classes == 2:
        expected["AUC"] = metrics.roc_auc_score(targets, probabilities[:, 1])
    assert found == pytest.approx(expected)


def test_values_of_numbers_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    targets = generator.normal(50, 9, 200)
    predictions = targets + generator.normal(1, 3, 200)
    found = [score.value for score in number_scores(predictions, targets)]
    expected = [
        metrics.root_mean_squared_error(targets, predictions),
        metrics.mean_absolute_error(targets, predictions),
        metrics.r2_score(targets, predictions),
    ]
    assert found == pytest.approx(expected)
    assert number_scores(predictions, targets, "price")[0].name == "RMSE of price"


@pytest.fixture
def resamples(monkeypatch):
    """What `bootstrap` draws, but fewer: scikit-learn takes its time."""
    monkeypatch.setattr("sigmoidcore.training.use.scores.RESAMPLES", 100)
    monkeypatch.setattr("sigmoidcore.training.use.scores.FEWEST", 100)

    def draw(count, seed=0):
        generator = np.random.default_rng(seed)
        return [generator.integers(count, size=count) for _ in range(100)]

    return draw


def percentiles(values):
    return tuple(np.percentile(values, [2.5, 97.5]))


def test_intervals_of_classes_are_those_of_scikit_learn_on_the_same_resamples(resamples):
    probabilities, targets = made_up(60, 2)
    found = {score.name: (score.low, score.high) for score in class_scores(probabilities, targets)}
    rows = resamples(60)
    guesses = probabilities.argmax(1)
    assert found["macro-F1"] == pytest.approx(
        percentiles([metrics.f1_score(targets[r], guesses[r], average="macro") for r in rows])
    )
    assert found["log loss"] == pytest.approx(
        percentiles([metrics.log_loss(targets[r], probabilities[r], labels=[0, 1]) for r in rows])
    )
    assert found["AUC"] == pytest.approx(
        percentiles([metrics.roc_auc_score(targets[r], probabilities[r, 1]) for r in rows])
    )


def test_intervals_of_numbers_are_those_of_scikit_learn_on_the_same_resamples(resamples):
    generator = np.random.default_rng(1)
    targets = generator.normal(50, 9, 40)
    predictions = targets + generator.normal(1, 3, 40)
    found = [(score.low, score.high) for score in number_scores(predictions, targets)]
    measures = (metrics.root_mean_squared_error, metrics.mean_absolute_error, metrics.r2_score)
    for interval, measure in zip(found, measures, strict=True):
        assert interval == pytest.approx(percentiles([measure(targets[r], predictions[r]) for r in resamples(40)]))


def test_the_bootstrap_is_that_of_scipy_up_to_chance():
    values = np.random.default_rng(0).exponential(size=400)
    found = bootstrap({"mean": lambda drawn: float(drawn @ values / 400)}, 400)[0]
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        values = generator.exponential(size=80)
        found = bootstrap({"mean": lambda drawn, values=values: float(drawn @ values / 80)}, 80)[0]
        held += found.low < 1 < found.high
    assert 86 <= held <= 99


def test_very_many_samples_get_fewer_resamples(monkeypatch):
    monkeypatch.setattr("sigmoidcore.training.use.scores.DRAWS", 50_000)
    counted = []
    bootstrap({"size": lambda drawn: counted.append(drawn.sum()) or 0.0}, 100)
    assert counted == [100.0] * 501


def test_what_is_not_defined_has_no_interval():
    assert math.isnan(bootstrap({"none": lambda drawn: float("nan")}, 10)[0].low)
    one_class = class_scores(np.array([[0.9, 0.1]] * 5), np.zeros(5, dtype=int))
    assert [score.name for score in one_class] == ["accuracy", "macro-F1", "log loss"]
    constant = number_scores(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert math.isnan(constant[2].value)
    assert math.isnan(constant[2].low)


def test_classes_that_neither_occur_nor_were_predicted_do_not_count():
    table = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert f1_of(table) == pytest.approx((6 / 7 + 8 / 9) / 2)


def test_the_area_of_a_resample_without_one_of_the_classes_is_not_defined():
    area = auc(np.array([0.1, 0.9]), np.array([0, 1]))
    assert math.isnan(area(np.array([2.0, 0.0])))
