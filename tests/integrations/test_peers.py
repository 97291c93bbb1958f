"""Methods that we are compared with: the same as in their authors' packages."""

import numpy as np
import pytest
import torch
from support.problems import problem
from torch import nn

from peers import find
from peers.methods.kernel_shaping import ShapedTanh, TailoredReLU, scaled_orthogonal

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_lsuv_is_that_of_the_package(kind):
    from lsuv import lsuv_with_singlebatch

    given = problem(kind, depth=6)
    torch.manual_seed(1)
    theirs = given.plain(lambda width: nn.ReLU())
    theirs = lsuv_with_singlebatch(theirs, given.inputs, verbose=False)
    torch.manual_seed(1)
    ours = find("lsuv").network(given)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("zeta", "depth"), [(1.5, 30), (1.1, 100)])
def test_the_shaped_tanh_is_that_of_the_package(zeta, depth):
    from dks.pytorch.activation_transform import get_transformed_activations

    found = get_transformed_activations(
        ["tanh"],
        method="DKS",
        dks_params={"c_slope_1_target": zeta},
        subnet_max_func=lambda c, f: composed(f, c, depth),
    )
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    ours, theirs = ShapedTanh(zeta ** (1 / depth)), found["tanh"](x)
    mirrored = -ours(-x)  # has the same moments
    assert min(float((ours(x) - theirs).abs().max()), float((mirrored - theirs).abs().max())) < 1e-4


@pytest.mark.parametrize(("eta", "depth"), [(0.9, 30), (0.8, 100)])
def test_the_tailored_relu_is_that_of_the_package(eta, depth):
    from dks.pytorch.activation_transform import get_transformed_activations

    found = get_transformed_activations(
        ["leaky_relu"], method="TAT", tat_params={"c_val_0_target": eta},
        subnet_max_func=lambda c, f: composed(f, c, depth),
    )  # fmt: skip
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    torch.testing.assert_close(TailoredReLU(eta, depth)(x), found["leaky_relu"](x), rtol=1e-6, atol=1e-6)


def composed(function, c, depth):
    """What a chain of layers, all of one map, makes of c; the largest of its parts is the whole."""
    for _ in range(depth):
        c = function(c)
    return c


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 5, 3, 3), (5, 8, 3, 3)])
def test_scaled_orthogonal_weights_are_those_of_the_package_in_the_layout_that_it_expects(shape):
    """It takes inputs before outputs. With PyTorch's layout, outputs first, it scales wrongly."""
    from dks.pytorch.parameter_sampling_functions import scaled_uniform_orthogonal_

    theirs = torch.empty(shape).transpose(0, 1).contiguous()
    scaled_uniform_orthogonal_(theirs)
    ours = scaled_orthogonal(torch.empty(shape))
    values = [centre(weight).svd().S for weight in (ours, theirs.transpose(0, 1))]
    torch.testing.assert_close(*values)
    if shape[0] > shape[1]:
        wrong = scaled_uniform_orthogonal_(torch.empty(shape))
        assert not np.allclose(centre(wrong).svd().S, values[0])


def centre(weight):
    assert weight.dim() == 2 or float(weight.square().sum()) == pytest.approx(float(weight[:, :, 1, 1].square().sum()))
    return weight if weight.dim() == 2 else weight[:, :, 1, 1]
