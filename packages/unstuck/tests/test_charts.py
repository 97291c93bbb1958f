"""The charts of a diagnosis: columns over depth, log axes with bands, histograms on one axis."""

import math
import re

import numpy as np
import pytest

from unstuck.measure.measurement import Layer, Measurement, Weight
from unstuck.report.charts import ROWS, SHADES, charts
from unstuck.report.svg import TALL, LogAxis, ValueAxis, edges


def measured(*layers, weights=(), step=None):
    return Measurement(tuple(layers), tuple(weights), samples=8, step=step)


def linear(name, gradient=1.0, **options):
    return Layer(name, name, "Linear", "weights", gradient=gradient, **options)


def activation(name, **options):
    return Layer(name, name, "Sigmoid", "activation", gradient=1.0, **options)


def histogram(low, high, counts=(1,) * 20):
    return activation("a", histogram=tuple(counts), low=low, high=high)


def chart(ident, measurement, history=()):
    (found,) = [c for own in charts(measurement, history=history).values() for c in own if c.ident == ident]
    return found


def boxes(chart):
    """For each class of a chart, the left end, top, width and height of its boxes."""
    number = r"(-?[\d.e+-]+)"
    box = re.compile(rf"M{number} {number}h{number}v{number}h")
    return {name: [tuple(map(float, found)) for found in box.findall(path)] for name, path in chart.paths.items()}


def test_a_bar_stands_at_its_layer_and_other_sizes_are_marked_in_bands():
    sizes = (0.0, math.inf, math.nan, None, 1.0)
    drawn = chart("profile", measured(*(linear(str(i), size) for i, size in enumerate(sizes)), activation("x")))
    lefts = {name: [box[0] for box in own] for name, own in boxes(drawn).items() if name != "band"}
    assert lefts == {"bar": [4.12], "tip": [4.12], "mark-0": [0], "mark-inf": [1], "mark-nan": [2], "mark-none": [3]}
    assert drawn.width == 6
    assert [tick.label for tick in drawn.ticks if not tick.line] == ["nan", "inf", "0", "none"]


def test_a_log_axis_has_three_decades_at_least_and_all_sizes_within():
    level = LogAxis([1.0, 1.1])
    assert level.y(1.0) - level.y(1.1) == pytest.approx(math.log10(1.1) * TALL / 3)
    steep = LogAxis([1e-30, 10.0, 0.0, math.nan])
    assert steep.y(math.nan) < steep.y(10.0) < steep.y(1e-30) < steep.y(0.0) < steep.height


def test_the_update_of_a_layer_is_that_of_its_first_weight_that_has_one():
    shared = ("b", "w")
    weights = (Weight("w", (2, 2), update=1e-3), Weight("b", (2,), update=None), Weight("unused", (2,), update=0.5))
    layers = activation("x"), linear("a", weights=shared), linear("a@2", weights=shared)
    drawn = chart("updates", measured(*layers, weights=weights))
    assert [box[0] for box in boxes(drawn)["bar"]] == [1.12, 2.12]
    assert drawn.facts["ends"] == [(1, 1e-3), (1, 1e-3)]


def test_of_very_many_layers_the_smallest_and_the_largest_gradient_are_drawn():
    sizes = [1.0] * 5000
    sizes[1234], sizes[3456] = 1e-9, 1e9
    drawn = chart("profile", measured(*(linear(str(i), size) for i, size in enumerate(sizes))))
    assert drawn.facts["drawn"] < 500
    assert drawn.facts["ends"] == [(1234, 1e-9), (3456, 1e9)]
    tops = [top for _left, top, *_ in boxes(drawn)["bar"]]
    assert len({round(top) for top in tops}) == 3


def test_saturated_neurons_have_another_colour_than_the_others():
    drawn = chart("slopes", measured(linear("a"), activation("b", slopes=(50, *[0] * 18, 50))))
    level = math.ceil(SHADES * 0.5**0.5)
    assert boxes(drawn) == {f"q{level}": [(1, 0, 1, 10)], f"q{level + SHADES}": [(1, 190, 1, 10)]}
    assert drawn.facts["worst"] == (1, 0.5)


def rows(layer, *others):
    """The shares of the outputs of a layer on the axis that it has with others."""
    drawn = boxes(chart("activations", measured(layer, *others)))
    found = np.zeros(ROWS)
    for name, own in drawn.items():
        for left, top, _width, height in own:
            if left == 0:
                found[ROWS - 1 - round(top / height)] = int(name[1:])
    return found


def test_equal_outputs_are_one_row_and_others_have_the_rows_between_their_ends():
    assert rows(histogram(2.0, 2.0), histogram(-2.0, 2.0))[-1] == SHADES
    assert (rows(histogram(2.0, 2.0)) > 0).sum() == 1
    assert (rows(histogram(-1.0, 1.0), histogram(-2.0, 2.0)) > 0).tolist() == [False] * 10 + [True] * 20 + [False] * 10


def test_the_axis_of_the_outputs_is_logarithmic_only_if_a_layer_reaches_much_farther_than_most():
    usual = [histogram(-1.0, 1.0)] * 9
    assert chart("activations", measured(*usual)).facts["axis"].knee is None
    axis = chart("activations", measured(*usual, histogram(-1e6, 1e6))).facts["axis"]
    assert axis.knee == 1.0
    assert axis.heights([-1e6, 0.0, 1e6]).tolist() == pytest.approx([0, 0.5, 1])
    assert axis.heights([1e3])[0] == pytest.approx(0.5 + 0.5 * math.asinh(1e3) / math.asinh(1e6))


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        ((0.0, 1.0), ["0", "0.2", "0.5", "1"]),
        ((-12.0, 12.0), ["-10", "-5", "0", "5", "10"]),
        ((-1e6, 1e6, 1.0), ["-1e6", "-20000", "-500", "0", "500", "20000", "1e6"]),
    ],
)
def test_ticks_are_round_and_have_room(axis, labels):
    found = sorted(ValueAxis(*axis).ticks(), key=lambda tick: -tick.at)
    assert [tick.label for tick in found] == labels


def test_layers_without_finite_outputs_are_not_drawn():
    empty = linear("a", histogram=(0,) * 20, low=None, high=None)
    assert list(charts(measured(empty, linear("b")))) == ["profile"]


def test_the_history_is_relative_to_the_median_of_each_step_over_the_layers_of_the_last():
    steps = [
        measured(*(linear(name, scale * size) for name, size in zip("abc", (0.01, 1.0, 100.0), strict=True)), step=step)
        for step, scale in ((0, 1.0), (10, 1e-8))
    ]
    last = measured(linear("a", 0.0), linear("new", 1.0), linear("b", math.inf), linear("c", 1.0), step=20)
    drawn = chart("history", last, [*steps, last])
    found = {(x, round(3 * y / drawn.height)): name for name, own in boxes(drawn).items() for x, y, *_ in own}
    smallest, level, largest, nonfinite, vanished = "d1", "d9", "d17", "d18", "d19"
    first = {(0, 0): smallest, (2, 0): level, (3, 0): largest}
    assert found == first | {(x, 1): name for (x, _), name in first.items()} | {
        (0, 2): vanished, (1, 2): level, (2, 2): nonfinite, (3, 2): level,
    }  # fmt: skip
    assert [tick.label for tick in drawn.ticks] == ["0", "10", "20"]


@pytest.mark.parametrize("distance", [1, 2, 3])
@pytest.mark.parametrize("layers", [6, 240, 9_000])
def test_the_layers_of_a_regular_network_fill_the_chart_without_gaps(layers, distance):
    left, right = edges(range(0, layers, distance), layers)
    assert left[0] == 0
    assert (left[1:] == right[:-1]).all()
    assert right[-1] >= layers - distance / 2 - 1


def test_a_gap_in_the_network_is_a_gap_in_the_chart():
    left, right = edges([0, 1, 2, 7, 8], 9)
    assert left.tolist() == [0, 1, 2, 7, 8]
    assert right.tolist() == [1, 2, 3, 8, 9]
