"""The figures of trainings and of the article."""

import io
import math

import matplotlib.image
import numpy as np
import pytest
import torch

from sigmoidcore.article import POINTS_X, POINTS_Y, fit
from sigmoidcore.plots import figures
from unstuck.observation import Profile


def profile(*sizes):
    return Profile(tuple(map(str, range(len(sizes)))), torch.tensor(sizes, dtype=torch.float64))


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


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no profiles"):
        figures.gradient_profiles({})
