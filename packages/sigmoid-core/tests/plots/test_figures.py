"""The figures of trainings and of the article."""

import io
import math

import matplotlib.image
import numpy as np
import pytest
import torch

from sigmoidcore.article import POINTS_X, POINTS_Y, fit
from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.plots import figures
from unstuck.observation.profile import Profile


def profile(*sizes):
    return Profile(tuple(map(str, range(len(sizes)))), torch.tensor(sizes, dtype=torch.float64))


def sample(step, *log_sizes):
    return Sample(step, math.nan, tuple(log_sizes), 0, 0)


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=60)
    buffer.seek(0)
    return matplotlib.image.imread(buffer)[..., :3]


def all_figures():
    yield "fit", figures.article_fit(fit(POINTS_X, POINTS_Y, epochs=20))
    yield "profiles", figures.gradient_profiles({"a": profile(0.0, 1e-20, 1.0), "b": profile(math.nan, math.inf, 2.0)})
    yield "all zero", figures.gradient_profiles({"a": profile(0.0, 0.0)})
    yield "one layer", figures.gradient_profiles({"a": profile(1.0)})
    yield "curves", figures.learning_curves({"a": [2.0, 0.1], "b": [2.3]}, {"a": [50.0, 90.0], "b": [10.0]})
    yield "no epoch", figures.learning_curves({"a": []}, {"a": []})
    yield "heat map", figures.gradient_heatmap({"a": [sample(0, 0.0, 1.0)], "b": [sample(0, -math.inf, 0.0)]}, layers=2)


@pytest.mark.parametrize(
    ("name", "figure"), list(all_figures()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_figure_is_blank(name, figure):
    image = pixels(figure)
    assert 0.005 < (image < 0.9).any(axis=2).mean() < 0.9, name


def test_a_notebook_shows_a_figure_without_pyplot():
    assert figures.article_fit(fit(POINTS_X, POINTS_Y))._repr_png_().startswith(b"\x89PNG")


def test_a_profile_is_drawn_on_a_log_axis_from_the_input_to_the_loss():
    axes = figures.gradient_profiles({"a": profile(1e-3, 1e-2, 1e-1)}).axes[0]
    (line,) = axes.lines
    assert axes.get_yscale() == "log"
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata().tolist() == [1e-3, 1e-2, 1e-1]
    assert axes.get_xlabel() == "layer (1 is next to the input, 3 next to the loss)"


def test_a_gradient_of_zero_is_marked_below_the_axis_and_counted():
    axes = figures.gradient_profiles({"a": profile(0.0, 0.0, 1e-9, 1.0)}).axes[0]
    line, marks = axes.lines
    assert marks.get_xdata().tolist() == [1, 2]
    assert marks.get_transform() != axes.transData
    assert np.isnan(line.get_ydata()[:2]).all()
    assert line.get_label() == "a: spread inf, vanished in 2 of 4 layers"
    assert "0" in [text.get_text() for text in axes.texts]


def test_a_gradient_that_is_not_finite_is_marked_above_the_axis():
    axes = figures.gradient_profiles({"a": profile(math.nan, 1.0, math.inf)}).axes[0]
    line, marks = axes.lines
    assert marks.get_xdata().tolist() == [1, 3]
    assert (np.asarray(marks.get_ydata()) > 0.9).all()
    assert "not finite in 2 of 3 layers" in line.get_label()


def test_the_axis_of_a_profile_has_at_least_three_decades():
    low, high = figures.gradient_profiles({"a": profile(1.0, 1.01, 1.0)}).axes[0].get_ylim()
    assert high / low >= 1000


def test_only_finished_epochs_are_drawn():
    losses, accuracies = figures.learning_curves({"a": [0.5, 0.2], "b": [1.0]}, {"a": [80.0, 90.0], "b": [70.0]}).axes
    assert [line.get_xdata().tolist() for line in losses.lines] == [[1, 2], [1]]
    assert [line.get_ydata().tolist() for line in accuracies.lines] == [[80.0, 90.0], [70.0]]


def test_the_heat_map_draws_irregular_samples_at_their_steps():
    history = [sample(step, 0.0, 0.1, 0.2) for step in (0, 1, 3, 50)]
    axes = figures.gradient_heatmap({"a": history}, layers=3, steps=60).axes[0]
    (mesh,) = axes.collections
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 1, 3, 50, 60]
    assert mesh.get_coordinates()[:, 0, 1].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert axes.lines[0].get_xdata().tolist() == [0, 1, 3, 50]


def test_the_heat_map_shows_the_logarithm_of_size_over_median():
    sizes = (0.01, 1.0, 1.0, 1.0, 100.0)
    history = [sample(0, *map(math.log, sizes))]
    (mesh,) = figures.gradient_heatmap({"a": history}, layers=5).axes[0].collections
    assert np.asarray(mesh.get_array()).ravel() == pytest.approx([-2, 0, 0, 0, 2])


def test_a_row_of_thinned_samples_covers_all_its_layers():
    history = [sample(0, *[0.0] * 50)]  # 100 layers, of which every second was kept
    (mesh,) = figures.gradient_heatmap({"a": history}, layers=100).axes[0].collections
    rows = mesh.get_coordinates()[:, 0, 1]
    assert (rows[0], rows[1], rows[-1]) == (0.5, 2.5, 100.5)


def test_a_vanished_gradient_is_grey_in_the_heat_map():
    figure = figures.gradient_heatmap({"a": [sample(0, -math.inf, -math.inf, -math.inf, 0.0)]}, layers=4)
    (mesh,) = figure.axes[0].collections
    assert np.ma.getmaskarray(mesh.get_array()).ravel().tolist() == [True, True, True, False]
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == [
        "no gradient: 0, or not finite"
    ]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.gradient_profiles({}), "no profiles"),
        (lambda: figures.learning_curves({}, {}), "no results"),
        (lambda: figures.gradient_heatmap({}, layers=1), "no samples"),
        (lambda: figures.gradient_heatmap({"a": []}, layers=1), "no samples"),
    ],
)
def test_nothing_to_draw_is_an_error(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_the_accuracy_axis_follows_the_data():
    low, high = figures.learning_curves({"a": [0.5, 0.2]}, {"a": [94.0, 98.0]}).axes[1].get_ylim()
    assert 90 < low < 94
    assert 98 < high <= 101


def test_a_million_steps_have_short_labels():
    history = [sample(step, 0.0, 0.1) for step in (0, 500_000, 1_000_000)]
    figure = figures.gradient_heatmap({"a": history}, layers=2, steps=1_200_000)
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "1M" in labels
    assert max(map(len, labels)) <= 5
