"""fold(activation="sigmoid"): cores become sigmoids where layers take in all that this asks, and only there."""

import copy
import math
import pickle

import pytest
import torch
from core_support.folds import (
    BETWEEN,
    One,
    assert_folds,
    assert_same,
    core,
    kept,
    randomized,
    unsettled,
)
from torch import fx, nn
from torch.nn import functional as F

import sigmoidcore as sc
from sigmoidcore import SigmoidCore


def to_sigmoids(model):
    return sc.fold(model, activation="sigmoid")


def activations(folded):
    """The plain activations, in order."""
    return [type(m) for m in folded.modules() if isinstance(m, nn.Tanh | nn.Sigmoid)]


def assert_becomes(model, *inputs, acts, stays=None):
    """It computes the same, with these activations; what it has besides added biases is named as with tanhs."""
    folded = assert_folds(model, *inputs, stays=stays, activation="sigmoid")
    assert activations(folded) == acts
    as_tanhs = sc.fold(model).state_dict()
    if stays is None:
        assert {n for n in folded.state_dict() if not n.endswith("bias")} == {n for n in as_tanhs if "bias" not in n}
        assert folded.state_dict().keys() >= as_tanhs.keys()
    return folded


def assert_stays(model, *inputs):
    """It computes the same, and is what it is with tanhs, bit for bit."""
    assert_folds(model, *inputs, activation="sigmoid", stays=kept(sc.fold(model)))
    found, expected = to_sigmoids(model), sc.fold(model)
    assert nn.Tanh in activations(expected)
    assert activations(found) == activations(expected)
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in found.state_dict().items())


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("bias", [True, False])
def test_a_centered_core_as_a_sigmoid_is_the_formula_in_numbers(scale, bias):
    act = SigmoidCore(1, centered=True, scale=scale)
    model = nn.Sequential(nn.Linear(1, 1), act, nn.Linear(1, 1, bias=bias)).double()
    act.set_slope(1.7)
    act.set_shift(0.4)
    folded = to_sigmoids(model)
    w, b, v = (p.item() for p in (model[0].weight, model[0].bias, model[2].weight))
    c = model[2].bias.item() if bias else 0.0
    assert type(folded[1]) is nn.Sigmoid
    assert folded[0].weight.item() == pytest.approx(1.7 * w, abs=1e-15)
    assert folded[0].bias.item() == pytest.approx(1.7 * (b - 0.4), abs=1e-15)
    assert folded[2].weight.item() == pytest.approx(scale * v, abs=1e-15)
    assert folded[2].bias.item() == pytest.approx(c - scale * v / 2, abs=1e-15)
    for x in (-2.0, 0.3, 5.0):
        y = scale * (1 / (1 + math.exp(-1.7 * (w * x + b - 0.4))) - 0.5)
        assert folded(torch.tensor([[x]], dtype=torch.float64)).item() == pytest.approx(v * y + c, abs=1e-14)


@pytest.mark.parametrize("depth", [1, 30])
def test_a_prepared_mlp_becomes_a_network_of_linears_and_sigmoids_and_loads_into_it(depth):
    model, x = sc.MLP(8, 16, depth, 3), torch.randn(100, 8)
    sc.prepare(model, x)
    folded = assert_folds(model, x, activation="sigmoid")
    assert type(folded) is nn.Sequential
    assert [type(m) for m in folded] == [nn.Linear, nn.Sigmoid] * depth + [nn.Linear]
    plain = nn.Sequential(*sc.MLP(8, 16, depth, 3, activation=lambda width: nn.Sigmoid()).children())
    plain.load_state_dict(folded.state_dict(), strict=True)
    assert torch.equal(plain(x), folded(x))


@pytest.mark.parametrize("activation", ["Sigmoid", "relu", "", None])
def test_another_activation_is_refused_with_the_choices(activation):
    for model in (nn.Sequential(nn.Linear(4, 4), core(4)), core(4), sc.recurrent.converted(nn.LSTM(3, 4))):
        with pytest.raises(ValueError, match=rf"activation must be 'tanh' or 'sigmoid', got {activation!r}"):
            sc.fold(model, activation=activation)


@pytest.mark.parametrize(("depth", "seed"), [(10, 0), (100, 0)])
def test_in_float32_sigmoids_cost_two_to_ten_times_the_rounding_of_tanhs(depth, seed):
    torch.manual_seed(seed)
    model = sc.MLP(64, 64, depth, 10)
    sc.prepare(model, torch.randn(256, 64))
    x = torch.randn(256, 64)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        off = {
            a: float((sc.fold(model, activation=a)(x) - exact).abs().max() / exact.std()) for a in ("tanh", "sigmoid")
        }
    assert off["tanh"] < {10: 3e-6, 100: 1e-5}[depth]
    assert off["sigmoid"] < {10: 1.2e-5, 100: 5e-5}[depth]
    assert 2 < off["sigmoid"] / off["tanh"] < 10


X1, X2, X3 = torch.randn(3, 4, 9), torch.randn(3, 4, 9, 8), torch.randn(2, 4, 5, 6, 5)
TAKES = {
    "linear": (nn.Linear(8, 3), X2),
    "conv2d": (nn.Conv2d(4, 3, 3, stride=2, dilation=2), X2),
    "conv2d without bias": (nn.Conv2d(4, 3, 3, bias=False), X2),
    "conv2d, groups": (nn.Conv2d(4, 6, 3, groups=2), X2),
    "conv2d, each channel": (nn.Conv2d(4, 4, (3, 1), groups=4, bias=False), X2),
    "conv3d": (nn.Conv3d(4, 3, 2), X3),
    **{
        f"conv2d, {mode}": (nn.Conv2d(4, 3, 3, padding=1, padding_mode=mode), X2)
        for mode in ("reflect", "replicate", "circular")
    },
    "conv2d, same, circular": (nn.Conv2d(4, 3, 3, padding="same", padding_mode="circular"), X2),
}
REFUSES = {
    "conv2d, padded": (nn.Conv2d(4, 3, 3, padding=1), X2),
    "conv2d, padded in one dimension": (nn.Conv2d(4, 3, (1, 3), padding=(0, 1)), X2),
    "conv2d, same": (nn.Conv2d(4, 3, 3, padding="same"), X2),
    "transposed 2d": (nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1), X2),
    "batch norm": (nn.BatchNorm2d(4), X2),
    "layer norm": (nn.LayerNorm(8), X2),
    "group norm": (nn.GroupNorm(2, 4), X2),
    "relu": (nn.ReLU(), X2),
    "nothing": (nn.Identity(), X2),
}


@pytest.mark.parametrize("case", TAKES)
def test_a_layer_that_sums_up_no_zeros_of_a_padding_takes_the_half_into_its_bias(case):
    layer, x = TAKES[case]
    model = nn.Sequential(nn.Linear(x.shape[-1], x.shape[-1]), core(), layer)
    folded = assert_becomes(model, x, acts=[nn.Sigmoid])
    assert isinstance(folded[2].bias, nn.Parameter)


@pytest.mark.parametrize("case", REFUSES)
def test_before_a_layer_that_cannot_take_the_half_in_a_tanh_stays(case):
    layer, x = REFUSES[case]
    assert_stays(nn.Sequential(nn.Linear(x.shape[-1], x.shape[-1]), core(), randomized(copy.deepcopy(layer))), x)


def test_a_network_has_sigmoids_before_its_linears_and_tanhs_before_its_padded_convolutions():
    model, x = sc.ConvNet(1, 4, 3, 5, image_size=8), torch.randn(20, 1, 8, 8)
    sc.prepare(model, x)
    assert_becomes(model, x, acts=[nn.Tanh, nn.Tanh, nn.Sigmoid])


@pytest.mark.parametrize("case", BETWEEN)
def test_the_half_goes_through_what_an_offset_goes_through(case):
    between, passes = BETWEEN[case]
    model = nn.Sequential(nn.Conv2d(2, 4, 3), core(4, dim=1), between, nn.Conv2d(4, 2, 2))
    x = torch.randn(3, 2, 9, 9)
    if passes:
        assert_becomes(model, x, acts=[nn.Sigmoid])
    else:
        assert_stays(model, x)


READS = {
    "residual sum": lambda net, h, x: net.b(h + x),
    "sum with itself": lambda net, h, x: net.b(h + h),
    "difference with itself": lambda net, h, x: net.b(h - h.roll(1, -1)),
    "number": lambda net, h, x: net.b(h + 1),
    "product": lambda net, h, x: net.b(h * x),
    "square": lambda net, h, x: net.b(h**2),
    "also the output": lambda net, h, x: (net.b(h), h),
    "also a sum": lambda net, h, x: net.b(h) + h,
    "functional": lambda net, h, x: F.linear(h, net.b.weight),
    "matrix product": lambda net, h, x: h @ net.b.weight.T,
    "layer norm": lambda net, h, x: net.b(F.layer_norm(h, (4,))),
    "joined with an input": lambda net, h, x: net.c(torch.cat([h, x], -1)),
    "joined with zeros": lambda net, h, x: net.c(torch.cat([h, torch.zeros_like(h)], -1)),
    "layer that reads an input, too": lambda net, h, x: net.b(h) + net.b(x),
    "padding": lambda net, h, x: net.c(F.pad(h, (2, 2))),
}


@pytest.mark.parametrize("case", READS)
def test_if_one_reader_cannot_take_the_half_in_the_tanh_stays(case):
    model = One(
        lambda net, x: READS[case](net, net.act(net.a(x)), x),
        **{"a": nn.Linear(4, 4), "act": core(4), "b": nn.Linear(4, 4), "c": nn.Linear(8, 4)},
    )
    assert_stays(model, torch.randn(3, 4))


def test_a_converted_tanh_module_becomes_a_sigmoid_and_the_output_stays_what_it_was():
    plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2), nn.Tanh())
    model = copy.deepcopy(plain)
    sc.convert(model)
    x = torch.randn(30, 4)
    assert_same(assert_becomes(model, x, acts=[nn.Sigmoid, nn.Sigmoid, nn.Tanh])(x), plain(x), 1e-5)
    sc.calibrate(model, x)
    assert_becomes(model, x, acts=[nn.Sigmoid, nn.Sigmoid, nn.Tanh])


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.act, self.function = nn.Tanh(), function

    def forward(self, x):
        return self.c(self.act(self.b(self.function(self.a(x)))))


def test_where_the_class_calls_a_tanh_it_does_again_and_modules_become_sigmoids():
    plain = Calls(torch.tanh)
    model = copy.deepcopy(plain)
    assert len(sc.convert(model).converted) == 2
    folded, x = to_sigmoids(unsettled(model)), torch.randn(9, 4)
    assert type(folded) is Calls
    assert "forward" not in folded.__dict__
    assert activations(folded) == [nn.Sigmoid]
    assert_same(folded(x), model(x), 1e-5)
    assert b"sigmoidcore" not in pickle.dumps(folded)


def test_a_sigmoid_that_was_centered_by_convert_is_the_sigmoid_of_the_class_again():
    plain = Calls(torch.sigmoid)
    model = copy.deepcopy(plain)
    assert len(sc.convert(model, centered=True).converted) == 2
    folded, x = to_sigmoids(unsettled(model)), torch.randn(9, 4)
    assert type(folded) is Calls
    assert folded.state_dict().keys() == plain.state_dict().keys()
    assert_same(folded(x), model(x), 1e-5)
    assert isinstance(sc.fold(model), fx.GraphModule)  # the class has no place for a tanh
