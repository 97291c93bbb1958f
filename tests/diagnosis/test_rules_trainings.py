"""SC103, SC204, SC301, SC302, SC307, SC608: what several measurements of a training tell."""

import math
from dataclasses import replace

import pytest
import torch
from support.layers import activation, linear, measurement, rules, training, with_weight

from sigmoidcore.diagnosis.measure.measurement import Comparison
from sigmoidcore.diagnosis.rules import find

FLAT, FALLING = [2.3] * 12, [2.3 * 0.8**i for i in range(12)]
X, Y = torch.randn(128, 64), torch.randint(10, (128,))


@pytest.mark.parametrize(
    ("update", "distance", "expected"),
    [(2.9e-5, 8, ["SC301"]), (3.1e-5, 8, []), (9.2e-4, 9, ["SC301"]), (9.4e-4, 9, []), (9.2e-4, 8, [])],
)
def test_steps_are_too_small_by_themselves_or_by_the_way_that_they_have_gone(update, distance, expected):
    steps = [replace(m, step=distance * i) for i, m in enumerate(training([update] * 12, FLAT))]
    assert rules(*steps) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.976, ["SC301"]), (0.975, [])])
def test_steps_are_too_small_if_the_loss_falls_by_less_than_a_fifth_on_a_short_way(share, expected):
    steps = [replace(m, step=9 * i) for i, m in enumerate(training([9e-4] * 12, [2.3 * share**i for i in range(12)]))]
    assert rules(*steps) == expected


def dying(dead, largest, first=0.1, usual=0.05):
    layers = [linear("0", 1.0), activation("1", 1.0, 0, dead=first), linear("2", 1.0, 1)]
    later = measurement(layers[0], replace(layers[1], dead=dead), layers[2])
    steps = [replace(later, step=i) for i in range(1, 6)]
    steps = [replace(measurement(*layers), step=0), *steps]
    for name in ("0.weight", "2.weight"):
        steps = [with_weight(m, name, update=largest if m.step == 2 else usual, rate=0.1) for m in steps]
    return rules(*steps)


def test_units_that_die_after_a_large_step_are_named_with_this_step_first():
    assert dying(0.95, 0.2) == ["SC302", "SC202"]
    assert dying(0.95, 0.09) == ["SC202"]
    assert dying(0.95, 0.2, first=0.95) == ["SC202"]
    assert dying(0.3, 0.2) == []
    assert dying(0.95, 0.2, usual=0.15) == ["SC302", "SC202"]


@pytest.mark.parametrize(
    ("update", "decay", "expected"),
    [(0.03, 0.8, ["SC307"]), (0.01, 0.8, []), (0.03, 0.3, [])],
    ids=["fast", "slow", "less than the gradient"],
)
def test_a_decay_that_takes_a_hundredth_of_the_weights_in_a_step(update, decay, expected):
    steps = training([update] * 12, FALLING)
    for name in ("0.weight", "2.weight"):
        steps = [with_weight(m, name, decay=decay) for m in steps]
    assert rules(*steps) == expected


@pytest.mark.parametrize(("size", "losses", "expected"), [(0.1, FLAT, ["SC307"]), (0.3, FLAT, []), (0.1, FALLING, [])])
def test_weights_that_shrink_while_nothing_is_learned(size, losses, expected):
    steps = training([1e-2] * 12, losses)
    for name in ("0.weight", "2.weight"):
        steps = [with_weight(m, name, size=2 * size ** (i / 11)) for i, m in enumerate(steps)]
    assert rules(*steps) == expected


def unpaired(losses, update=0.02, every=10, **compared):
    comparison = Comparison("cross_entropy", 2, (64, 10), (64,), True, 0, 9, varied=True, output_rms=0.3)
    beside = compared.pop("beside", 0)
    steps = training([update] * 12, losses)
    steps = [replace(m, step=every * i, foreign_steps=beside) for i, m in enumerate(steps)]
    return [f.rule for f in find([replace(m, comparisons=(replace(comparison, **compared),)) for m in steps])]


CHANCE = [math.log(10) + 0.01 * (-1) ** i for i in range(12)]


def test_a_loss_that_stays_at_that_of_a_constant_is_named():
    assert unpaired(CHANCE) == ["SC608"]
    squared = {"function": "mse_loss", "classes": False, "low": -2.0, "high": 2.0, "target_rms": 1.5}
    assert unpaired(CHANCE, **squared, target_deviation=1.5) == ["SC608"]
    assert unpaired(CHANCE, **squared, target_deviation=3.0) == []
    assert unpaired(CHANCE, **squared, target_deviation=1.0) == []


@pytest.mark.parametrize(
    "healthy",
    [
        {"losses": [math.log(10)] * 6 + FALLING[:6]},
        {"losses": [1.8] * 12},
        {"losses": CHANCE, "every": 8},
        {"losses": CHANCE, "update": 4e-3},
        {"losses": CHANCE, "varied": False, "function": "binary_cross_entropy_with_logits", "high": 1},
        {"losses": CHANCE, "beside": 1},
    ],
    ids=[
        "a slow start",
        "better than a constant",
        "a short training",
        "small steps",
        "one label a call",
        "beside a generator",
    ],
)
def test_slow_starts_and_losses_below_that_of_a_constant_are_healthy(healthy):
    assert unpaired(**healthy) == []


def answered(loss, comparison, first=None):
    """A recurrent layer that forgets and a softmax that looks at one key, with this loss."""
    steps = [1e-9] * 10 + [1.0] * 10
    layers = [linear("0", 1.0, steps=tuple(steps)), activation("1", 1.0, 0), linear("2", 1.0, 1)]
    layers[1] = replace(layers[1], role="attention", entropy=0.01, sharp=1.0)
    last = measurement(*layers, comparisons=(comparison,), loss=loss, loss_function=comparison.function)
    return rules(*([replace(last, loss=first)] if first else []), last)


def test_a_network_that_has_learned_may_forget_and_look_at_one_key():
    classes = Comparison("cross_entropy", 2, (64, 10), (64,), True, 0, 9, varied=True, target_rms=5.0, output_rms=4.0)
    numbers = Comparison(
        "mse_loss", 2, (64, 1), (64, 1), False, -2, 2, target_rms=1.0, target_deviation=1.0, output_rms=1.0
    )
    assert answered(1.0, classes) == answered(0.2, numbers) == ["SC103", "SC204"]
    assert answered(0.4, classes) == answered(0.09, numbers) == answered(0.2, numbers, first=2.1) == []


def test_five_losses_do_not_tell_that_a_training_stands_still():
    steps = [replace(m, step=99 * i) for i, m in enumerate(training([1e-6] * 12, FLAT))]
    assert (rules(*steps), rules(*steps[:8]), rules(*steps[:7])) == (["SC301"], ["SC301"], [])
