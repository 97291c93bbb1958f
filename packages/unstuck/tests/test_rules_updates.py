"""US301, US302: updates, judged by the loss."""

from dataclasses import replace

import pytest
from unstuck_support.layers import rules, training, with_weight

from unstuck.measure.measurement import Comparison

FLAT, FALLING = [2.3] * 12, [2.3 * 0.8**i for i in range(12)]


RUINED = [0.3, 0.2, 0.05, *[1e-3] * 9]


def spoiled(steps, **sign):
    """The activation shows that the network is of no use."""
    sign = sign or {"dead": 0.6}
    return [
        replace(m, layers=tuple(replace(x, **sign) if x.role == "activation" else x for x in m.layers)) for m in steps
    ]


@pytest.mark.parametrize(
    ("updates", "losses", "expected"),
    [
        (RUINED, FLAT, ["US302"]),
        (RUINED, FALLING, []),
        ([0.05, *RUINED[1:]], FLAT, ["US302"]),
        ([0.05, 0.02, 0.01, *[1e-4] * 9], FLAT, []),
        ([1e-3] * 12, FLAT, []),
        ([1e-2] * 3 + [1e-5] * 9, FLAT, []),
    ],
    ids=[
        "ruined",
        "learns",
        "ruined later",
        "not large",
        "usual",
        "faded at one rate",
    ],
)
def test_rates_are_judged_by_the_loss(updates, losses, expected):
    assert rules(*spoiled(training(updates, losses))) == expected


@pytest.mark.parametrize(
    ("first", "grown", "losses", "expected"),
    [
        (0.8, 5.0, [2.3, *[1.9] * 11], ["US302"]),
        (0.8, 2.0, FLAT, []),
        (0.2, 5.0, FLAT, []),
        (0.8, 5.0, FALLING, []),
    ],
    ids=["blown up", "not grown", "slowly", "learns"],
)
def test_first_steps_that_make_the_weights_much_larger(first, grown, losses, expected):
    steps = []
    for i, m in enumerate(training([first, *[0.01] * 11], losses)):
        size = 2.0 * (grown if i else 1.0)
        steps.append(with_weight(with_weight(m, "0.weight", size=size), "2.weight", size=size))
    assert rules(*steps) == expected


@pytest.mark.parametrize(
    ("usual", "losses", "expected"),
    [(3, FLAT, ["US301"]), (3, FALLING, []), (10, FLAT, [])],
    ids=["early", "after learning", "at the end"],
)
def test_a_schedule_that_ends_the_training_too_early(usual, losses, expected):
    rates = [1.0] * usual + [1e-3] * (12 - usual)
    assert rules(*training([1e-2 * rate for rate in rates], losses, rates)) == expected


@pytest.mark.parametrize(
    ("usual", "ended", "expected"),
    [(9, 0.0, ["US301"]), (11, 0.0, []), (9, None, []), (0, 0.0, [])],
    ids=["too early", "with the last step", "another optimizer", "always"],
)
def test_a_training_that_goes_on_at_a_rate_of_0_changes_nothing(usual, ended, expected):
    rates = [1.0] * usual + [ended] * (12 - usual)
    found = training([1e-2 * bool(rate) for rate in rates[:usual]] + [1e-2] * (12 - usual), FALLING, rates)
    assert rules(*found) == expected


@pytest.mark.parametrize(
    ("update", "losses", "expected"),
    [(0.24, [2.3, 1.5, 0.4], []), (0.24, [2.3, 2.0, 1.5], ["US302"]), (2.0, [2.3, 1.5, 0.4], ["US302"])],
    ids=["falls", "hardly falls", "replaces the weights"],
)
def test_large_first_steps_are_no_fault_while_the_loss_falls(update, losses, expected):
    assert rules(*training([update] * 3, losses)) == expected


def test_a_rate_that_was_lowered_has_not_ruined_anything():
    assert rules(*training([0.3, 0.2, *[0.02] * 4, *[1e-2] * 6], FLAT, [1.0] * 6 + [0.1] * 6)) == []


def test_a_loss_at_chance_is_not_learned_even_if_it_fell_from_far_above():
    steps = spoiled(training(RUINED, [30.0, 10.0, 4.0, *[2.3] * 9]))
    assert rules(*steps) == []
    scores = Comparison("cross_entropy", shape=(64, 10), target_shape=(64,), classes=True, low=0, high=9)
    assert rules(*[replace(m, comparisons=(scores,)) for m in steps]) == ["US302"]


def test_first_steps_that_fit_the_data_have_ruined_nothing():
    scores = Comparison("cross_entropy", shape=(64, 10), target_shape=(64,), classes=True, low=0, high=9, varied=True)
    steps = [replace(m, comparisons=(scores,)) for m in spoiled(training(RUINED, [0.1] * 12))]
    assert rules(*steps) == []
    assert rules(*[replace(m, loss=10 * m.loss) for m in steps]) == ["US302"]


@pytest.mark.parametrize(("taken", "expected"), [(0.003, ["US301"]), (0.5, [])])
def test_steps_that_clipping_makes_short_are_named_also_if_they_go_some_way(taken, expected):
    steps = training([5e-4] * 12, FLAT)
    steps = [
        replace(m, step=10 * i, weights=tuple(replace(w, taken=taken) for w in m.weights)) for i, m in enumerate(steps)
    ]
    assert rules(*steps) == expected
