"""When the rate falls, and when training ends."""

import pytest

from sigmoidcore.estimators.schedule import Rates


def course(values, epochs=200):
    """After how many epochs the rate falls, and after how many training ends; with a patience of 10."""
    rates = Rates(epochs, tol=0.5, patience=10)
    for done, value in enumerate(values, 1):
        rates.after_epoch(value)
        if rates.finished:
            return next(e for e in range(done + 1) if rates(e + 1) < 1), done
    raise AssertionError("training did not end")


def better_until(last):
    return [-min(epoch, last) for epoch in range(1, 201)]


@pytest.mark.parametrize("last", range(85, 101))
def test_training_ends_only_if_nothing_gets_better_while_the_rate_falls(last):
    fall = min(last + 11, 100)
    assert course(better_until(last)) == (fall, fall + 11)


def test_of_an_odd_number_of_epochs_the_rate_falls_in_the_middle_of_one_which_does_not_count():
    assert course(better_until(92), epochs=199) == (99, 100 + 11)


@pytest.mark.parametrize(("last", "end"), [(101, 112), (150, 161), (195, 200)])
def test_training_goes_on_as_long_as_anything_gets_better(last, end):
    assert course(better_until(last)) == (100, end)


def test_the_rate_falls_for_as_many_epochs_as_it_was_held():
    assert course([*better_until(20)[:31], *range(-21, -100, -1)]) == (31, 62)
