"""The numbers of a measurement, arranged over depth."""

import math

import numpy as np
import pytest

from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight
from sigmoidcore.diagnosis.report import depth


def measured(*layers, weights=(), step=None):
    return Measurement(tuple(layers), tuple(weights), samples=8, step=step)


def linear(name, gradient=1.0, **options):
    return Layer(name, name, "Linear", "weights", gradient=gradient, **options)


def activation(name, **options):
    return Layer(name, name, "Sigmoid", "activation", gradient=1.0, **options)


def test_gradients_are_those_of_the_layers_with_weights_at_their_places():
    sizes = depth.gradients(measured(linear("a", 0.1), activation("b"), linear("c", None), linear("d", math.nan)))
    assert sizes.at.tolist() == [0, 3]
    assert sizes.values.tolist()[0] == 0.1
    assert {name: at.tolist() for name, at in sizes.marked.items()} == {"nan": [3], "none": [2]}


def test_values_without_a_place_on_a_log_axis_are_distinct():
    sizes = depth.gradients(measured(*(linear(str(v), v) for v in (0.0, math.inf, math.nan, None, 1.0))))
    assert {name: at.tolist() for name, at in sizes.marked.items()} == {"0": [0], "inf": [1], "nan": [2], "none": [3]}
    assert sizes.drawable.tolist() == [False, False, False, True]


def test_a_log_axis_has_three_decades_at_least_and_all_sizes_within():
    low, high = depth.gradients(measured(linear("a", 1.0), linear("b", 1.1))).decades
    assert high - low == pytest.approx(3)
    low, high = depth.gradients(measured(linear("a", 1e-30), linear("b", 10.0))).decades
    assert low < -30
    assert high > 1


def test_updates_are_drawn_at_the_first_layer_that_uses_the_weight_and_once():
    shared = ("w", "b")
    weights = (Weight("w", (2, 2), update=1e-3), Weight("b", (2,), update=None), Weight("unused", (2,), update=0.5))
    sizes = depth.updates(
        measured(activation("x"), linear("a", weights=shared), linear("a@2", weights=shared), weights=weights)
    )
    assert sizes.at.tolist() == [1]
    assert sizes.values.tolist() == [1e-3]


def test_slopes_are_shares_that_sum_to_one():
    cells = depth.slopes(measured(linear("a"), activation("b", slopes=(3, *[0] * 18, 1))))
    assert cells.at.tolist() == [1]
    assert cells.shares[:, 0].tolist() == [0.75, *[0.0] * 18, 0.25]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1e6), (-3e4, 7.0), (0.5, 0.5), (-1e-30, 1e-30)])
def test_a_histogram_keeps_its_total_on_the_common_axis(low, high):
    one = activation("a", histogram=tuple(range(20)), low=low, high=high)
    other = activation("b", histogram=(1,) * 20, low=-2.0, high=2.0)
    cells = depth.outputs(measured(one, other), weighted=False)
    assert cells.shares.sum(axis=0) == pytest.approx([1.0, 1.0])
    assert (cells.shares >= 0).all()


def test_a_histogram_keeps_its_mean_on_the_common_axis():
    layer = activation("a", histogram=(0,) * 10 + (5,) * 5 + (1,) * 5, low=-1.0, high=1.0)
    cells = depth.outputs(measured(layer, activation("b", histogram=(1,) * 20, low=-2.0, high=2.0)), weighted=False)
    rows = -2 + 4 * (np.arange(depth.ROWS) + 0.5) / depth.ROWS
    middles = -1 + 2 * (np.arange(20) + 0.5) / 20
    counts = np.array(layer.histogram)
    assert rows @ cells.shares[:, 0] == pytest.approx(middles @ counts / counts.sum(), abs=1e-9)


def test_equal_outputs_are_one_row():
    cells = depth.outputs(measured(linear("a", histogram=(9, *[0] * 19), low=2.0, high=2.0)), weighted=True)
    assert sorted(cells.shares[:, 0].tolist())[-2:] == [0.0, 1.0]
    assert (cells.axis.low, cells.axis.high) == (1.0, 3.0)


def test_the_axis_of_the_outputs_is_logarithmic_only_if_a_layer_reaches_much_farther_than_most():
    usual = [linear(str(i), histogram=(1,) * 20, low=-1.0, high=1.0) for i in range(9)]
    assert depth.outputs(measured(*usual), weighted=True).axis.knee is None
    wide = linear("x", histogram=(1,) * 20, low=-1e6, high=1e6)
    axis = depth.outputs(measured(*usual, wide), weighted=True).axis
    assert axis.knee == 1.0
    assert axis.height([-1e6, 0.0, 1e6]).tolist() == pytest.approx([0, 0.5, 1])
    assert axis.height([1e3])[0] == pytest.approx(0.5 + 0.5 * 4 / 7)
    assert [label for _, label in axis.ticks()] == ["-1e+06", "-1000", "-1", "0", "1", "1000", "1e+06"]


def test_layers_without_finite_outputs_have_no_column():
    empty = linear("a", histogram=(0,) * 20, low=None, high=None)
    assert depth.outputs(measured(empty, linear("b")), weighted=True).at.size == 0


def test_history_is_relative_to_the_median_of_each_step_over_the_layers_of_the_last():
    steps = [
        measured(*(linear(name, scale * size) for name, size in zip("abc", (0.01, 1.0, 100.0), strict=True)), step=step)
        for step, scale in ((0, 1.0), (10, 1e-8))
    ]
    last = measured(linear("a", 0.0), linear("new", 1.0), linear("b", math.inf), linear("c", 2.0), step=20)
    found = depth.history([*steps, last], most=64)
    assert found.steps.tolist() == [0, 10, 20]
    assert found.at.tolist() == [0, 1, 2, 3]
    assert found.logs[:2, [0, 2, 3]] == pytest.approx(np.array([[-2, 0, 2]] * 2))
    assert np.isnan(found.logs[:2, 1]).all()
    assert found.logs[2, [0, 2]].tolist() == [-math.inf, math.inf]


def test_a_long_history_is_thinned_evenly_and_keeps_its_ends():
    found = depth.history([measured(linear("a"), step=step) for step in range(1000)], most=11)
    assert found.steps.tolist() == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]


def test_recurrent_layers_are_sorted_by_the_change_of_their_gradient():
    steps = {"even": (1.0, 1.1), "odd": (0.0, 1.0), "falls": (1e-6, 1.0)}
    layers = [linear(name, steps=values) for name, values in steps.items()]
    assert [layer.name for _, layer in depth.through_time(measured(*layers, linear("plain")))] == [
        "odd",
        "falls",
        "even",
    ]


@pytest.mark.parametrize("layers", [1, 2, 7, 240, 241, 480, 481, 10_000])
def test_layers_of_a_regular_network_fill_all_columns(layers):
    count = depth.columns(layers, 480)
    assert count <= max(480, 1)
    spans = depth.spans(np.arange(layers), layers, count)
    covered = {column for first, end in spans for column in range(first, end)}
    assert covered == set(range(count))
    assert all(0 <= first < end <= count for first, end in spans)


def test_a_layer_lies_in_the_middle_of_its_columns():
    assert depth.spans(np.array([0, 2, 4]), 6, 12) == [(0, 3), (3, 7), (7, 11)]
    assert depth.spans(np.array([0, 2, 4]), 6, 12, width=1) == [(0, 2), (4, 6), (8, 10)]


def test_a_column_shows_mean_shares_the_farthest_difference_and_both_ends_of_sizes():
    at = np.arange(1000)
    shares = np.zeros((1, 1000))
    shares[0, 500] = 1.0
    assert np.nanmax(depth.averaged(at, shares, 1000, 10)) == pytest.approx(0.01)
    assert np.nanmin(depth.farthest(at, -3 * shares, 1000, 10)) == -3
    sizes = depth.Sizes(at, np.where(at == 500, 1e-9, 1.0), np.zeros(0, dtype=np.int64))
    low, high = depth.envelope(sizes, 1000, 10)
    assert low.tolist() == [1, 1, 1, 1, 1, 1e-9, 1, 1, 1, 1]
    assert high.tolist() == [1] * 10
