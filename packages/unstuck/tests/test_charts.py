"""The charts of a diagnosis as data: columns over depth, log axes with bands, histograms on one axis."""

import math

import numpy as np
import pytest

from unstuck.measure.measurement import Layer, Measurement, Weight
from unstuck.report.axes import ROWS, TALL, LogAxis, OutputAxis, columns
from unstuck.report.charts import SHADES, panels, through_time


def measured(*layers, weights=(), step=None):
    return Measurement(tuple(layers), tuple(weights), samples=8, step=step)


def linear(name, gradient=1.0, **options):
    return Layer(name, name, "Linear", "weights", gradient=gradient, **options)


def activation(name, **options):
    return Layer(name, name, "Sigmoid", "activation", gradient=1.0, **options)


def histogram(low, high, counts=(1,) * 20):
    return activation("a", histogram=tuple(counts), low=low, high=high)


def chart(ident, measurement, history=()):
    (found,) = [c for panel in panels(measurement, history=history) for c in panel.charts if c.ident == ident]
    return found


def test_a_bar_stands_at_its_layer_and_other_sizes_are_marked_in_bands():
    sizes = (0.0, math.inf, math.nan, None, 1.0)
    drawn = chart("chart-profile", measured(*(linear(str(i), size) for i, size in enumerate(sizes)), activation("x")))
    lefts = {name: [box[0] for box in boxes] for name, boxes in drawn.boxes.items() if name != "band"}
    assert lefts == {"bar": [4.12], "tip": [4.12], "mark-0": [0], "mark-inf": [1], "mark-nan": [2], "mark-none": [3]}
    assert drawn.width == 6
    assert [tick.label for tick in drawn.ticks if not tick.line] == ["nan", "inf", "0", "none"]


def test_a_log_axis_has_three_decades_at_least_and_all_sizes_within():
    level = LogAxis([1.0, 1.1], [], [])
    assert level.y(1.0) - level.y(1.1) == pytest.approx(math.log10(1.1) * TALL / 3)
    steep = LogAxis([1e-30, 10.0, 0.0, math.nan], [], [])
    assert 0 < steep.y(10.0) < steep.y(1e-30) < TALL


def test_updates_are_drawn_at_the_first_layer_that_uses_the_weight_and_once():
    shared = ("w", "b")
    weights = (Weight("w", (2, 2), update=1e-3), Weight("b", (2,), update=None), Weight("unused", (2,), update=0.5))
    layers = activation("x"), linear("a", weights=shared), linear("a@2", weights=shared)
    drawn = chart("chart-updates", measured(*layers, weights=weights))
    assert [box[0] for box in drawn.boxes["bar"]] == [1.12]
    assert drawn.summary == "Update-to-weight ratio from 0.001 (layer 2, a) to 0.001 (layer 2, a)."


def test_saturated_neurons_have_another_colour_than_the_others():
    drawn = chart("chart-slopes", measured(linear("a"), activation("b", slopes=(50, *[0] * 18, 50))))
    level = math.ceil(SHADES * 0.5**0.5)
    assert drawn.boxes == {f"q{level}": [(1, 0, 1, 10)], f"q{level + SHADES}": [(1, 190, 1, 10)]}
    assert "Worst is layer 2, b: 50 % of its neurons are below 0.05." in drawn.summary


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1e6), (-3e4, 7.0), (0.5, 0.5), (-1e-30, 1e-30)])
def test_a_histogram_keeps_its_total_on_the_common_axis(low, high):
    one, other = histogram(low, high, range(20)), histogram(-2.0, 2.0)
    axis = OutputAxis([one, other])
    for layer in (one, other):
        assert axis.rows(layer).sum() == pytest.approx(1)
        assert (axis.rows(layer) >= 0).all()


def test_a_histogram_keeps_its_mean_on_the_common_axis():
    counts = np.array([0] * 10 + [5] * 5 + [1] * 5)
    layer = histogram(-1.0, 1.0, counts.tolist())
    rows = -2 + 4 * (np.arange(ROWS) + 0.5) / ROWS
    middles = -1 + 2 * (np.arange(20) + 0.5) / 20
    shares = OutputAxis([layer, histogram(-2.0, 2.0)]).rows(layer)
    assert rows @ shares == pytest.approx(middles @ counts / counts.sum(), abs=1e-9)


def test_equal_outputs_are_one_row():
    layer = histogram(2.0, 2.0)
    axis = OutputAxis([layer])
    assert sorted(axis.rows(layer).tolist())[-2:] == [0.0, 1.0]
    assert (axis.low, axis.high) == (1.0, 3.0)


def test_the_axis_of_the_outputs_is_logarithmic_only_if_a_layer_reaches_much_farther_than_most():
    usual = [histogram(-1.0, 1.0)] * 9
    assert OutputAxis(usual).knee is None
    axis = OutputAxis([*usual, histogram(-1e6, 1e6)])
    assert axis.knee == 1.0
    assert axis.heights([-1e6, 0.0, 1e6]).tolist() == pytest.approx([0, 0.5, 1])
    assert axis.heights([1e3])[0] == pytest.approx(0.5 + 0.5 * math.asinh(1e3) / math.asinh(1e6))
    assert [tick.label for tick in axis.ticks()] == ["-1", "-1000", "-1e+06", "0", "1", "1000", "1e+06"]


def test_layers_without_finite_outputs_are_not_drawn():
    empty = linear("a", histogram=(0,) * 20, low=None, high=None)
    assert [panel.ident for panel in panels(measured(empty, linear("b")))] == ["profile"]


def test_the_history_is_relative_to_the_median_of_each_step_over_the_layers_of_the_last():
    steps = [
        measured(*(linear(name, scale * size) for name, size in zip("abc", (0.01, 1.0, 100.0), strict=True)), step=step)
        for step, scale in ((0, 1.0), (10, 1e-8))
    ]
    last = measured(linear("a", 0.0), linear("new", 1.0), linear("b", math.inf), linear("c", 1.0), step=20)
    drawn = chart("chart-history", last, [*steps, last])
    found = {(x, round(3 * y / drawn.height)): name for name, boxes in drawn.boxes.items() for x, y, *_ in boxes}
    smallest, level, largest, nonfinite, vanished = "d1", "d9", "d17", "d18", "d19"
    first = {(0, 0): smallest, (2, 0): level, (3, 0): largest}
    assert found == first | {(x, 1): name for (x, _), name in first.items()} | {
        (0, 2): vanished, (1, 2): level, (2, 2): nonfinite, (3, 2): level,
    }  # fmt: skip
    assert [tick.label for tick in drawn.ticks] == ["0", "10", "20"]


def test_recurrent_layers_are_sorted_by_the_change_of_their_gradient():
    steps = {"even": (1.0, 1.1), "odd": (0.0, 1.0), "falls": (1e-6, 1.0)}
    layers = [linear(name, steps=values) for name, values in steps.items()]
    assert [layer.name for _, layer in through_time(measured(*layers, linear("plain")))] == ["odd", "falls", "even"]


@pytest.mark.parametrize("distance", [1, 2, 3])
@pytest.mark.parametrize("layers", [6, 240, 480, 486, 600, 900, 9_000])
def test_the_layers_of_a_regular_network_fill_the_chart_without_gaps(layers, distance):
    found = columns(range(0, layers, distance), layers, 480)
    assert (found.left[0], found.count) == (0, min(layers, 480))
    assert (found.left[1:] == found.right[:-1]).all()
    assert found.right[-1] >= found.count - distance / 2 - 1
    assert sum(map(len, found.members)) == len(range(0, layers, distance))


def test_a_column_of_many_layers_shows_mean_shares_and_the_farthest_difference():
    found = columns(range(1000), 1000, 10)
    shares = np.zeros((1, 1000))
    shares[0, 500] = 1.0
    assert found.mean(shares).max() == pytest.approx(0.01)
    assert found.farthest(-3 * shares).min() == -3
