"""Numbers of a layer against NumPy: sizes, spreads, counts, neurons and dtypes."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.measuring import Forward, layer, measured, mlp, module_gradients, size

from unstuck.measure.measurement import BINS
from unstuck.measure.probe import Probe
from unstuck.observation.process_group import Ranks

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))

Y = torch.arange(32) % 3


def test_positions_are_not_samples():
    """A gradient is per sample, whether the positions of a sequence have a dimension of their own or are rows."""
    x = torch.randn(8, 5, 6)
    apart = nn.Linear(6, 3)
    folded = Forward(lambda s, x: s.fc(x.reshape(-1, 6)).view(8, 5, 3), fc=apart)
    time_first = Forward(lambda s, x: s.fc(x.transpose(0, 1)).transpose(0, 1), fc=apart)

    def loss_fn(out, y):
        return out.square().sum(2).mean()

    one, two, three = (measured(net, x, 0, loss_fn).layers[0] for net in (apart, folded, time_first))
    y = apart(x)
    (expected,) = torch.autograd.grad(loss_fn(y, 0), y)
    for row in (one, two, three):
        assert row.gradient == pytest.approx(size(expected), rel=1e-5)
        assert row.spread == pytest.approx(one.spread, rel=1e-6)


def numpy_spread(y):
    """Of [samples, features], in float64."""
    y = np.asarray(y, dtype=np.float64)
    return math.sqrt(y.var(0).sum() / np.square(y).mean(0).sum())


@pytest.mark.parametrize("shape", [(32, 6), (32, 5, 6), (32, 3, 5, 6), (4, 6), (700, 6)], ids=str)
def test_rms_and_spread_equal_those_of_numpy(shape):
    model, x = nn.Linear(6, 7), 3 + torch.randn(shape)
    y = model(x).detach().double().numpy()
    m = measured(model, x)
    (row,) = m.layers
    assert m.input_spread == pytest.approx(numpy_spread(x.flatten(1)), rel=1e-5)
    assert m.input_nonfinite == 0
    assert row.shape == y.shape
    assert row.rms == pytest.approx(math.sqrt(np.square(y).mean()), rel=1e-6)
    assert row.spread == pytest.approx(numpy_spread(y.reshape(shape[0], -1)), rel=1e-5)
    assert row.nonfinite == 0


@pytest.mark.parametrize("noise", [1e-2, 1e-6])
@pytest.mark.parametrize("first", ["like others", "far away"])
def test_the_spread_of_a_collapsed_batch_is_precise(noise, first):
    torch.manual_seed(3)
    y = 1 + noise * torch.randn(64, 50, dtype=torch.float64)
    if first == "far away":
        y[0] += 3 * noise
    model = Forward(lambda s, x: torch.relu(x * s.one), one=torch.ones(()))
    (row,) = measured(model, y.float()).layers
    assert row.spread == pytest.approx(numpy_spread(y), rel=0.1)
    assert row.spread == pytest.approx(numpy_spread(y.float()), rel=1e-3)


def test_equal_samples_have_a_spread_of_0_and_a_single_one_has_none():
    model = mlp(nn.Tanh)
    m = measured(model, X[:1], Y[:1], functional.cross_entropy)
    assert (m.samples, m.input_spread) == (1, None)
    assert all(row.spread is None and row.gradient > 0 and row.rms > 0 for row in m.layers)
    m = measured(model, X[:1].expand(32, -1))
    assert m.input_spread == 0
    assert all(row.spread < 1e-6 for row in m.layers)  # PyTorch's own rounding differs from row to row
    assert measured(model, torch.zeros(32, 6)).input_spread == 0


def test_a_limit_of_samples_applies_to_spread_and_slopes():
    x = torch.randn(200, 6)
    model = mlp(nn.Sigmoid)
    probe = Probe(model, most=16, ranks=Ranks())
    probe.attach()
    functional.cross_entropy(model(x), torch.arange(200) % 3).backward()
    row = probe.conclude().layers[1]
    y = model[:2](x).detach().double().numpy()
    whole = measured(model, x, torch.arange(200) % 3, functional.cross_entropy).layers[1]
    assert (row.rows, whole.rows) == (16, 200)
    assert row.rms == pytest.approx(whole.rms, rel=1e-6)
    assert row.gradient == pytest.approx(whole.gradient, rel=1e-6)
    assert row.spread == pytest.approx(math.sqrt(y[:16].var(0).mean()) / row.rms, rel=1e-5)
    assert row.relative_slope == pytest.approx(4 * (y[:16] * (1 - y[:16])).mean(), rel=1e-6)


def test_inputs_of_any_number_and_shape_are_measured():
    model = Forward(lambda s, x, table, scale, i: s.fc(x) * scale + table.mean() + i.sum(), fc=nn.Linear(6, 3))
    x, table = torch.randn(32, 6), torch.randn(7, 3)
    x[0, 0] = table[0, 0] = math.nan
    m = measured(model, (x, table, torch.tensor(2.0), torch.arange(5)))
    assert m.samples == 32
    assert m.input_nonfinite == 2
    assert measured(nn.Embedding(9, 4), torch.randint(0, 9, (32, 5))).input_spread is None


def test_later_in_place_operations_change_no_number():
    apart = Forward(lambda s, x: s.b(s.a(x).sigmoid().mul(3).add(1).clamp(2, 3)), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    within = Forward(lambda s, x: s.b(s.a(x).sigmoid_().mul(3).add_(1).clamp_(2, 3)), a=apart.a, b=apart.b)
    assert measured(apart, X).layers == measured(within, X).layers

    def forward(s, x):
        y = s.a(x)
        with torch.no_grad():
            y.zero_()
        return s.b(y)

    zeroed = Forward(forward, a=apart.a, b=apart.b)
    assert measured(zeroed, X).layers[0].rms == pytest.approx(measured(apart, X).layers[0].rms)


def test_non_finite_numbers_are_counted_in_inputs_outputs_gradients_and_weights():
    x = X.clone()
    x[3, 2], x[7, 1] = math.nan, math.inf
    model = mlp(nn.Tanh, depth=2)
    with torch.no_grad():
        model[2].weight[1, 3] = -math.inf
        model[2].weight[2, 5] = math.nan
    outputs, gradients = module_gradients(model, x, Y, functional.cross_entropy)
    expected = {name: int((~torch.isfinite(p.grad)).sum()) for name, p in model.named_parameters()}
    m = measured(model, x, Y, functional.cross_entropy)
    assert m.input_nonfinite == 2
    for row in m.layers:
        assert row.nonfinite == int((~torch.isfinite(outputs[row.name])).sum())
        assert row.nonfinite_gradient == int((~torch.isfinite(gradients[row.name])).sum())
    assert m.layers[0].nonfinite == 16
    assert m.layers[2].nonfinite_gradient > 0
    assert math.isnan(m.layers[0].gradient)
    for weight in m.weights:
        assert weight.nonfinite_gradient == expected[weight.name]
        assert weight.nonfinite == (2 if weight.name == "2.weight" else 0)
    assert math.isnan(m.loss)


def test_the_share_of_saturated_neurons_is_exact():
    for activation, where in ((nn.Sigmoid, 40.0), (nn.Tanh, -40.0)):
        model = mlp(activation, width=10, depth=2)
        with torch.no_grad():
            model[0].bias[:3] = where
        row = layer(measured(model, X), "1")
        slopes = 4 * torch.sigmoid(model[0](X)) * torch.sigmoid(-model[0](X))
        if activation is nn.Tanh:
            slopes = 1 - torch.tanh(model[0](X)).square()
        means = slopes.detach().double().mean(0)
        assert (row.neurons, row.rows) == (10, 32)
        assert row.saturated == 0.3
        assert row.dead is None
        assert row.relative_slope == pytest.approx(float(means.mean()), rel=1e-5)
        expected, _ = np.histogram(means.numpy(), BINS, (0, 1))
        assert row.slopes == tuple(expected)


def test_the_neurons_of_a_convolution_are_its_channels_over_samples_and_places():
    model = nn.Sequential(nn.Conv2d(3, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 10, 3), nn.Hardtanh())
    with torch.no_grad():
        model[0].bias[:4] = -50
        model[2].bias[:1] = 99
    x = torch.randn(8, 3, 5, 5)
    m = measured(model, x)
    first, second = layer(m, "1"), layer(m, "3")
    y = model[0](x)
    assert (first.neurons, first.rows, first.dead) == (10, 8 * 25, 0.4)
    assert first.relative_slope == pytest.approx(float((y > 0).double().mean()))
    assert (second.neurons, second.rows, second.dead, second.saturated) == (10, 8 * 9, 0.1, 0.1)


def test_the_neurons_of_sequences_are_features_over_samples_and_steps():
    model = nn.Sequential(nn.Linear(6, 10), nn.Sigmoid())
    with torch.no_grad():
        model[0].bias[:7] = 40
    for x in (torch.randn(8, 5, 6), torch.randn(40, 6)):
        row = layer(measured(model, x), "1")
        assert (row.neurons, row.rows, row.saturated) == (10, 40, 0.7)
    time_first = Forward(lambda s, x: s.net(x.transpose(0, 1)).transpose(0, 1), net=model)
    row = layer(measured(time_first, torch.randn(8, 5, 6)), "net.1")
    assert (row.neurons, row.rows, row.saturated) == (10, 40, 0.7)


@pytest.mark.parametrize(("magnitude", "scale"), [(1e30, 1e-30), (1e-30, 1e-5), (1e-3, 1e30)])
def test_huge_and_tiny_numbers_neither_overflow_nor_vanish(magnitude, scale):
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    plain = measured(model, X, 0, lambda out, _: out.sum())
    m = measured(model, X * magnitude, 0, lambda out, _: out.sum() * scale)
    for row, same_row in zip(m.layers, plain.layers, strict=True):
        assert row.gradient == pytest.approx(scale * same_row.gradient, rel=1e-5, abs=0)
        assert row.rms == pytest.approx(magnitude * same_row.rms, rel=1e-5, abs=0)
        assert row.spread == pytest.approx(same_row.spread, rel=1e-5, abs=0)
        assert row.gain == (same_row.gain and pytest.approx(same_row.gain, rel=1e-5, abs=0))
        assert row.dead == same_row.dead
    assert m.weights[1].gradient == pytest.approx(magnitude * scale * plain.weights[1].gradient, rel=1e-5, abs=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_double_and_half_precision_are_measured(dtype):
    model = mlp(nn.Tanh, width=16).to(dtype)
    x = X.to(dtype)
    outputs, gradients = module_gradients(model, x, Y, functional.cross_entropy)
    m = measured(model, x, Y, functional.cross_entropy)
    for row in m.layers:
        y = outputs[row.name].detach()
        assert row.dtype == str(dtype).removeprefix("torch.")
        assert row.gradient == pytest.approx(size(gradients[row.name]), rel=1e-5)
        assert row.rms == pytest.approx(float(y.double().square().mean().sqrt()), rel=1e-6)
        assert row.spread == pytest.approx(numpy_spread(y.double()), rel=1e-4)
