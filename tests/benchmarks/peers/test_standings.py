"""Where a method stands: the best setting, its basin and its curve, from results made by hand."""

import pytest

from sigmoidcore.peers.standings import Setting, Trial, standings


def trial(metric, *, rate=0.1, knob=None, seed=0, method="a", depth=3, curve=()):
    return Trial(Setting(method, depth, knob, rate, seed), metric, 1.0, 10, tuple(curve))


def standing(*trials):
    (found,) = standings(trials)
    return found


def test_the_best_setting_has_the_highest_mean_over_the_seeds():
    one = [trial(90, rate=0.1), trial(92, rate=0.1, seed=1)]
    other = [trial(99, rate=0.2), trial(80, rate=0.2, seed=1)]
    assert standing(*other, *one).best == one


def test_a_setting_in_which_one_training_failed_is_the_best_only_if_there_is_no_other():
    failed = [trial(99, rate=0.1), trial(None, rate=0.1, seed=1)]
    other = [trial(20, rate=0.2), trial(30, rate=0.2, seed=1)]
    assert standing(*failed, *other).best == other
    assert standing(*failed).best == failed


def test_a_setting_that_lacks_seeds_is_not_chosen():
    assert standing(trial(90), trial(90, seed=1), trial(99, rate=0.2)).best == [trial(90), trial(90, seed=1)]


def test_rates_are_those_of_the_best_knob_in_order():
    found = standing(trial(95, knob=1.0, rate=0.3), trial(90, knob=1.0, rate=0.1), trial(94, knob=2.0, rate=0.1))
    assert list(found.by_rate.items()) == [(0.1, 90), (0.3, 95)]


@pytest.mark.parametrize(
    ("metrics", "basin"),
    [
        ((90, 97, 96, 95.1), 10),
        ((90, 97, 94.9, 90), 1),
        ((None, 95, 97, None), pytest.approx(10 / 3)),
        ((None,) * 4, None),
    ],
)
def test_the_basin_is_the_largest_over_the_smallest_rate_within_two_points_of_the_best(metrics, basin):
    rates = (0.001, 0.003, 0.01, 0.03)
    assert standing(*(trial(m, rate=r) for m, r in zip(metrics, rates, strict=True))).basin == basin


def test_one_rate_has_no_basin():
    assert standing(trial(90), trial(91, seed=1)).basin is None


def test_the_curve_is_the_mean_over_the_seeds():
    curves = [(1.0, 50.0), (2.0, 80.0)], [(3.0, 60.0), (4.0, 90.0)]
    found = standing(*(trial(90, seed=i, curve=curve) for i, curve in enumerate(curves)))
    assert found.curve == [(2.0, 55.0), (3.0, 85.0)]


def test_every_method_at_every_depth_stands_for_itself():
    trials = [trial(1), trial(2, depth=5), trial(3, method="b"), trial(4, rate=0.5)]
    found = [(s.method, s.depth, [len(of) for of in s.settings.values()]) for s in standings(trials)]
    assert found == [("a", 3, [1, 1]), ("a", 5, [1]), ("b", 3, [1])]
