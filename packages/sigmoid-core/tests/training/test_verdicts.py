"""Scores that are no success are called so, and others are not."""

import pytest

from sigmoidcore.training.use.scores import ClassScore, Score, verdicts


def accuracy(value, half, baseline):
    return (Score("accuracy", value, value - half, value + half, baseline),)


def recalls(**found):
    return [ClassScore(name, samples, 1.0, recall, 1.0) for name, (samples, recall) in found.items()]


def r2(value, half):
    return tuple(Score(name, value, value - half, value + half) for name in ("RMSE", "MAE", "R2"))


def test_the_answer_of_the_most_frequent_class_is_called_that():
    (found,) = verdicts(accuracy(0.961, 0.012, 0.961), recalls(no=(961, 1.0), yes=(39, 0.0)), None)
    assert found.startswith("no better than always saying 'no', which is right for 96.1 %: ")


@pytest.mark.parametrize(
    ("scores", "classes"),
    [
        (accuracy(0.85, 0.02, 0.961), recalls(no=(961, 0.86), yes=(39, 0.7))),  # weighted classes
        (accuracy(0.97, 0.01, 0.961), recalls(no=(961, 0.99), yes=(39, 0.4))),
        (accuracy(0.9, 0.05, 0.5), recalls(no=(50, 0.9), yes=(50, 0.9))),
        (accuracy(1.0, 0.1, 1.0), recalls(no=(30, 1.0), yes=(0, float("nan")))),  # only one class in the data
    ],
)
def test_scores_that_a_constant_answer_cannot_have_are_not(scores, classes):
    assert verdicts(scores, classes, None) == ()


def test_an_accuracy_above_the_constant_one_by_chance_is_not_better():
    (found,) = verdicts(accuracy(0.55, 0.14, 0.5), recalls(no=(25, 0.56), yes=(25, 0.54)), None)
    assert "no better than always saying 'no'" in found


def test_numbers_are_compared_with_their_mean():
    (found,) = verdicts(r2(0.03, 0.05), (), None)
    assert found.startswith("no better than always the mean (R2 0.03): ")
    assert verdicts(r2(0.2, 0.1), (), None) == ()


@pytest.mark.parametrize(
    ("scores", "classes", "training", "words"),
    [
        (
            accuracy(0.7, 0.05, 0.5),
            recalls(no=(99, 0.7), yes=(99, 0.7)),
            1.0,
            "accuracy 100.0 % on the training samples",
        ),
        (r2(0.5, 0.1), (), 0.99, "R2 0.990 on the training samples and 0.500 on these"),
    ],
)
def test_a_training_part_that_is_known_much_better_is_overfitting(scores, classes, training, words):
    (found,) = verdicts(scores, classes, training)
    assert found.startswith(f"overfits: {words}")
    assert "--weight-decay" in found


@pytest.mark.parametrize("training", [0.75, 0.79])  # within the interval; less than 10 points
def test_a_small_difference_is_not_overfitting(training):
    assert verdicts(accuracy(0.7, 0.06, 0.5), recalls(no=(99, 0.7), yes=(99, 0.7)), training) == ()
