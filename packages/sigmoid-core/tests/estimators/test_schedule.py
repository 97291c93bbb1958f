"""When the rate of an estimator falls, and when training ends."""

import pytest

from sigmoidcore.estimators.training import Schedule


def epochs_of(values, epochs=200):
    """The epoch at which the rate begins to fall and the epoch at which training ends, with a patience of 10."""
    schedule, shares = Schedule(epochs, tol=0.5, patience=10), []
    for value in values:
        schedule.after_epoch(value)
        shares.append(schedule.share(1.0))
        if schedule.finished:
            return sum(share == 1 for share in shares) + 1, len(shares)
    raise AssertionError("training did not end")


def improving_until(last):
    return [-min(epoch, last) for epoch in range(1, 201)]


@pytest.mark.parametrize("last", [85, 88, 89, 90, 100])
def test_training_ends_only_without_an_improvement_during_the_fall(last):
    fall = min(last + 11, 100)
    assert epochs_of(improving_until(last)) == (fall, fall + 11)


def test_of_an_odd_number_of_epochs_the_middle_one_does_not_count():
    assert epochs_of(improving_until(92), epochs=199) == (99, 100 + 11)


@pytest.mark.parametrize(("last", "end"), [(101, 112), (150, 161), (195, 200)])
def test_training_continues_while_the_loss_improves(last, end):
    assert epochs_of(improving_until(last)) == (100, end)


def test_the_rate_falls_over_as_many_epochs_as_it_was_at_its_peak():
    assert epochs_of([*improving_until(20)[:31], *range(-21, -100, -1)]) == (31, 62)
