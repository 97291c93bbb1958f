"""Methods that we are compared with: the same as in their authors' packages."""

import numpy as np
import pytest
import torch
from support.problems import problem
from torch import nn

from peers import find
from peers.methods.kernel_shaping import ShapedTanh, TailoredReLU, scaled_orthogonal
from peers.recurrent import IRNN, LRU, URLSTM, ExpRNN, LinearRecurrentUnit

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


def test_a_linear_recurrent_unit_is_its_recurrence_step_by_step():
    unit, x = LinearRecurrentUnit(6, 0.9, 0.999, 0.3), torch.randn(3, 40, 6)
    eigenvalues = torch.polar((-unit.decay.exp()).exp(), unit.phase.exp())
    assert 0.9 <= eigenvalues.abs().min() <= eigenvalues.abs().max() <= 0.999
    read, write = torch.view_as_complex(unit.read), torch.view_as_complex(unit.write)
    state, outputs = torch.zeros(3, 6, dtype=torch.complex64), []
    for step in x.unbind(1):
        state = eigenvalues * state + unit.scale.exp() * (step.to(torch.complex64) @ read.T)
        outputs.append((state @ write.T).real + unit.skip * step)
    torch.testing.assert_close(unit(x), torch.stack(outputs, 1), rtol=1e-4, atol=1e-4)


def test_recurrent_weights_of_an_exprnn_are_orthogonal_and_keep_the_gradient():
    layer, x = ExpRNN(2, 16), torch.randn(4, 300, 2)
    weight = layer.rotation()
    torch.testing.assert_close(weight @ weight.T, torch.eye(16), rtol=1e-5, atol=1e-5)
    h = torch.randn(4, 16, requires_grad=True)
    end = h
    for _ in range(300):
        z = end @ weight.T
        end = z.sign() * torch.relu(z.abs() + layer.shift)
    (gradient,) = torch.autograd.grad((end * torch.randn(4, 16)).sum(), h)
    assert 1.0 < gradient.norm() < 20.0
    assert layer(x)[0].shape == (4, 300, 16)


def test_an_irnn_adds_what_it_reads():
    layer = IRNN(1, 4)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
    torch.testing.assert_close(layer(torch.ones(2, 50, 1))[0][:, -1], torch.full((2, 4), 50.0))


def test_forget_gates_of_an_ur_lstm_begin_uniformly_and_the_refine_gate_opens_and_closes_them():
    layer = URLSTM(1, 2000)
    forget = layer.input.bias.detach()[:2000].sigmoid()
    assert abs(float(forget.mean()) - 0.5) < 0.03
    assert float(forget.std()) == pytest.approx(1 / 12**0.5, abs=0.02)
    with torch.no_grad():
        layer.input.weight.zero_()
        layer.hidden.weight.zero_()
        layer.input.bias.copy_(torch.cat([torch.zeros(2000), torch.full((2000,), 40.0), torch.ones(4000)]))
    end = layer(torch.zeros(1, 2, 1))[0][0, -1, 0]  # f = 1/2, r = 1: g = 3/4
    cell = 0.75 * 0.25 * torch.tanh(torch.tensor(1.0)) + 0.25 * torch.tanh(torch.tensor(1.0))
    torch.testing.assert_close(end, torch.sigmoid(torch.tensor(1.0)) * torch.tanh(cell))


def test_an_lru_has_one_output_for_each_step():
    assert LRU(3, 8)(torch.randn(2, 20, 3))[0].shape == (2, 20, 8)
