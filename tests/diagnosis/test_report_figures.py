"""The matplotlib figures of a diagnosis."""

import io
import math

import matplotlib.image
import pytest
import torch
from support import diagnoses
from torch import nn

import sigmoidcore as sc
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.report import figures


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=60)
    buffer.seek(0)
    return matplotlib.image.imread(buffer)[..., :3]


def odd():
    diagnosis = diagnoses.broken(6)
    for place, value in ((0, math.nan), (2, math.inf), (4, 0.0), (6, None)):
        diagnosis = diagnoses.with_layer(diagnosis, place, gradient=value)
    return diagnosis


def drawn():
    yield "overview", figures.overview(diagnoses.measurement(8))
    yield "many layers", figures.overview(diagnoses.broken(1000, decay=1.01).measurement)
    yield "odd gradients", figures.overview(odd().measurement)
    yield "one layer", figures.overview(diagnoses.measurement(1))


@pytest.mark.parametrize(("name", "figure"), list(drawn()), ids=lambda value: value if isinstance(value, str) else "")
def test_no_figure_is_blank(name, figure):
    image = pixels(figure)
    assert 0.005 < (image < 0.9).any(axis=2).mean() < 0.9, name


def test_plot_is_the_overview():
    titles = [axes.get_title(loc="left") for axes in diagnoses.broken(8).plot().axes]
    assert [title.split(":")[0].split(",")[0] for title in titles] == [
        "Gradient profile",
        "Neuron saturation",
        "Outputs of the activations",
    ]


def test_panels_share_their_axis_so_that_a_layer_is_at_the_same_place_in_each():
    figure = figures.overview(diagnoses.broken(8).measurement)
    figure.draw_without_rendering()
    assert {axes.get_xlim() for axes in figure.axes} == {(0.5, 16.5)}
    ends = [axes.get_position() for axes in figure.axes]
    assert len({(round(end.x0, 6), round(end.x1, 6)) for end in ends}) == 1
    assert figure.axes[-1].get_xlabel() == "layer (1 is next to the input, 16 next to the loss)"


def test_the_bars_of_the_profile_stand_at_the_numbers_of_the_layers():
    bars, *_ = figures.overview(diagnoses.measurement(4)).axes[0].collections
    assert [path.vertices[:4, 0].mean().round(6) for path in bars.get_paths()][1:] == [3, 5, 7]


def test_the_share_of_saturated_neurons_is_in_the_title_and_in_the_lowest_row():
    measurement = diagnoses.with_layer(diagnoses.broken(1), 1, slopes=(30, *[0] * 18, 70)).measurement
    axes = figures.overview(measurement).axes[1]
    assert "at most 30 % of a layer's neurons below 0.05" in axes.get_title(loc="left")
    lowest = [path.vertices for cells in axes.collections for path in cells.get_paths()][-1]
    assert lowest[:, 1].max() == axes.get_ylim()[0]


def test_an_overview_of_nothing_is_an_empty_profile():
    assert len(Diagnosis(Measurement((), (), samples=1), ()).plot().axes) == 1


def test_a_real_network_is_drawn():
    model = nn.Sequential(*[m for _ in range(10) for m in (nn.Linear(16, 16), nn.ReLU())], nn.Linear(16, 4))
    diagnosis = sc.diagnose(model, torch.randn(32, 16), torch.randint(0, 4, (32,)), nn.functional.cross_entropy)
    assert len(diagnosis.plot().axes) == 3
