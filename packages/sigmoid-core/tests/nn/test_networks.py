"""MLP, and convolutional networks of cores."""

import pytest
import torch
from core_support.networks import convolutions
from torch import nn

from sigmoidcore import MLP, SigmoidCore, gradient_profile, prepare


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_an_mlp_is_depth_times_linear_and_core_then_linear(depth):
    model = MLP(7, 6, depth, 3)
    assert [type(m) for m in model] == [nn.Linear, SigmoidCore] * depth + [nn.Linear]
    shapes = [(m.in_features, m.out_features) for m in model if isinstance(m, nn.Linear)]
    assert shapes == [(7, 6)] + [(6, 6)] * (depth - 1) + [(6, 3)]
    for core in list(model)[1::2]:
        assert (core.num_features, core.dim, core.centered, core.trainable) == (6, -1, True, False)
        assert bool((core.slope == 4).all())
    assert len(set(model)) == len(model)


@pytest.mark.parametrize("batch", [(5,), (2, 5), (1,)])
def test_the_output_has_the_inputs_batch_dimensions(batch):
    assert MLP(7, 6, 2, 3)(torch.zeros(*batch, 7)).shape == (*batch, 3)


def test_the_activation_is_made_for_every_layer_from_its_width():
    widths = []

    def make(width):
        widths.append(width)
        return nn.Tanh()

    model = MLP(7, 6, 3, 2, activation=make)
    assert widths == [6, 6, 6]
    assert [type(m) for m in list(model)[1::2]] == [nn.Tanh] * 3


def test_a_slice_of_an_mlp_is_a_part_of_the_network_as_with_nn_sequential():
    model, x = MLP(7, 6, 3, 2), torch.randn(4, 7)
    assert torch.equal(model[-1](model[:-1](x)), model(x))
    for part in (model[:-1], model[2:], model[::2]):
        assert isinstance(part, nn.Sequential)
        assert not isinstance(part, MLP)
    assert list(model[2:4]) == [model[2], model[3]]
    assert list(model[:0]) == []


@pytest.mark.parametrize("name", ["in_features", "width", "depth", "out_features"])
@pytest.mark.parametrize("value", [0, -1, "2", 2.0])
def test_a_size_that_is_no_whole_number_above_0_is_an_error_that_names_it(name, value):
    sizes = {"in_features": 2, "width": 3, "depth": 1, "out_features": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value!r}"):
        MLP(**sizes)


@pytest.mark.parametrize("depth", [3, 40])
def test_prepare_levels_a_convolutional_network(depth):
    model = convolutions(1, 8, depth, 10, size=12)
    assert prepare(model, torch.randn(60, 1, 12, 12)).after.spread <= 1.12
    assert gradient_profile(model, torch.randn(60, 1, 12, 12)).spread <= 1.3
