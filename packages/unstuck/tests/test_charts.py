"""The charts of a diagnosis: columns over depth, log axes with bands, shades."""

import math
import re

import pytest

from unstuck.measure.measurement import Layer, Measurement, Weight
from unstuck.report.charts import SHADES, TALL, charts, edges


def measured(*layers, weights=(), step=None):
    return Measurement(tuple(layers), tuple(weights), samples=8, step=step)


def linear(name, gradient=1.0, **options):
    return Layer(name, name, "Linear", "weights", gradient=gradient, **options)


def activation(name, **options):
    return Layer(name, name, "Sigmoid", "activation", gradient=1.0, **options)


def chart(ident, measurement, history=()):
    (found,) = [c for c in charts(measurement, history=history) if c.ident == ident]
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
    level, higher = boxes(chart("profile", measured(linear("a", 1.0), linear("b", 1.1))))["bar"]
    assert level[1] - higher[1] == pytest.approx(math.log10(1.1) * TALL / 3, abs=0.1)
    small, large = boxes(chart("profile", measured(linear("a", 1e-30), linear("b", 10.0))))["bar"]
    assert 0 < large[1] < small[1] < TALL


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


def test_the_history_is_relative_to_the_median_of_each_step_over_the_layers_of_the_last():
    steps = [
        measured(*(linear(name, scale * size) for name, size in zip("abc", (0.01, 1.0, 100.0), strict=True)), step=step)
        for step, scale in ((0, 1.0), (10, 1e-8))
    ]
    last = measured(linear("a", 0.0), linear("new", 1.0), linear("b", math.inf), linear("c", 1.0), step=20)
    drawn = chart("history", last, [*steps, last])
    found = {(x, round(3 * y / drawn.height)): name for name, own in boxes(drawn).items() for x, y, *_ in own}
    smallest, level, largest = "d1", "d9", "d17"
    first = {(0, 0): smallest, (2, 0): level, (3, 0): largest}
    assert found == first | {(x, 1): name for (x, _), name in first.items()} | {
        (0, 2): smallest, (1, 2): level, (2, 2): largest, (3, 2): level,
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
