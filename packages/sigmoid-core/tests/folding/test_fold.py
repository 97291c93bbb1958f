"""fold: the copy is plain PyTorch and computes the same; what stays as a constant is where it has to."""

import math

import pytest
import torch
from core_support.folds import (
    BETWEEN,
    OFFSET_STAYS,
    SHAPES,
    One,
    Two,
    assert_folds,
    assert_same,
    core,
    kept,
    randomized,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import sigmoidcore as sc
from sigmoidcore import SigmoidCore

CENTERED = [(True, 1.0), (False, 1.0), (True, 2.0), (False, 3.0)]


@pytest.mark.parametrize(("centered", "scale"), CENTERED)
def test_a_folded_core_is_the_formula_in_numbers(centered, scale):
    linear, act = nn.Linear(1, 1).double(), SigmoidCore(1, centered=centered, scale=scale).double()
    act.set_slope(1.7)
    act.set_shift(0.4)
    model = nn.Sequential(linear, act, nn.Linear(1, 1).double())
    folded = sc.fold(model)
    for x in (-2.0, 0.3, 5.0):
        w, b, v, c = (p.item() for p in (linear.weight, linear.bias, model[2].weight, model[2].bias))
        y = scale * (1 / (1 + math.exp(-1.7 * (w * x + b - 0.4))) - (0.5 if centered else 0.0))
        assert folded(torch.tensor([[x]], dtype=torch.float64)).item() == pytest.approx(v * y + c, abs=1e-14)
    assert type(folded[1]) is (nn.Tanh if centered else nn.Sigmoid)
    assert folded[0].weight.item() == pytest.approx(1.7 * w * (0.5 if centered else 1), abs=1e-15)
    assert folded[2].weight.item() == pytest.approx(v * scale * (0.5 if centered else 1), abs=1e-15)
    assert folded[2].bias.item() == c


@pytest.mark.parametrize(
    ("made", "plain"),
    [
        (lambda: SigmoidCore(16, alpha=2.0, centered=True, scale=2.0), nn.Tanh),
        (lambda: SigmoidCore(16), nn.Sigmoid),
        (lambda: SigmoidCore(), nn.Sigmoid),
    ],
)
def test_an_uncalibrated_model_folds_to_the_plain_one_bit_for_bit(made, plain):
    model = nn.Sequential(nn.Linear(8, 16, bias=False), made(), nn.BatchNorm1d(16), nn.Linear(16, 16), made())
    folded = sc.fold(model)
    assert [type(m) for m in folded] == [nn.Linear, plain, nn.BatchNorm1d, nn.Linear, plain]
    expected = {k: v for k, v in model.state_dict().items() if "slope" not in k and "shift" not in k}
    assert list(folded.state_dict()) == list(expected)
    assert all(torch.equal(v, expected[k]) for k, v in folded.state_dict().items())
    x = torch.randn(5, 8)
    assert torch.equal(folded.eval()(x), model.eval()(x))


@pytest.mark.parametrize("depth", [1, 30])
def test_a_prepared_mlp_folds_to_a_sequential_of_linears_and_tanhs(depth):
    model = sc.MLP(8, 16, depth, 3)
    sc.prepare(model, torch.randn(100, 8))
    folded = assert_folds(model, torch.randn(50, 8))
    assert type(folded) is nn.Sequential
    assert [type(m) for m in folded] == [nn.Linear, nn.Tanh] * depth + [nn.Linear]


X1, X2, X3 = torch.randn(3, 4, 9), torch.randn(3, 4, 7, 8), torch.randn(2, 4, 5, 6, 5)

BEFORE = {
    "linear": (nn.Linear(5, 6), core(6), torch.randn(3, 5)),
    "linear, one slope": (nn.Linear(5, 6), core(), torch.randn(3, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3), core(6, dim=1), X1),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), core(6, dim=1), X2),
    "conv2d, groups": (nn.Conv2d(4, 6, 3, groups=2), core(6, dim=-3), X2),
    "conv3d": (nn.Conv3d(4, 6, 3, padding="same"), core(6, dim=1), X3),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3), core(6, dim=1), X1),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), core(6, dim=1), X2),
    "transposed 2d, groups": (nn.ConvTranspose2d(4, 6, 3, groups=2), core(6, dim=1), X2),
    "transposed 3d, groups": (nn.ConvTranspose3d(4, 8, 2, groups=4), core(8, dim=1), X3),
    "batch norm": (nn.BatchNorm1d(4), core(4), torch.randn(5, 4)),
    "batch norm 2d": (nn.BatchNorm2d(4), core(4, dim=1), X2),
    "batch norm 3d": (nn.BatchNorm3d(4), core(4, dim=-4), X3),
    "layer norm": (nn.LayerNorm(8), core(8), X2),
    "layer norm without bias": (nn.LayerNorm(8, bias=False), core(8), X2),
    "group norm": (nn.GroupNorm(2, 4), core(4, dim=1), X2),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), core(4, dim=1), X2),
}

NO_BIAS = {
    "linear": (nn.Linear(5, 6, bias=False), core(6), torch.randn(3, 5)),
    "conv2d": (nn.Conv2d(4, 6, 3, bias=False), core(6, dim=1), X2),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, bias=False, groups=2), core(6, dim=1), X2),
    "one shift": (nn.Conv2d(4, 6, 3, bias=False), core(), X2),
}


@pytest.mark.parametrize("case", BEFORE)
def test_a_layer_takes_in_slope_and_shift(case):
    layer, act, x = BEFORE[case]
    assert_folds(randomized(nn.Sequential(layer, act)), x, stays={"1": ["factor"]})


@pytest.mark.parametrize("case", NO_BIAS)
def test_a_layer_gets_a_bias_for_the_shift(case):
    layer, act, x = NO_BIAS[case]
    folded = assert_folds(nn.Sequential(layer, act), x, stays={"1": ["factor"]})
    assert isinstance(folded[0].bias, nn.Parameter)
    act.set_shift(0.0)
    assert sc.fold(nn.Sequential(layer, act))[0].bias is None


@pytest.mark.parametrize("case", BETWEEN)
def test_the_factor_goes_through_all_of_them_and_the_shift_through_what_commutes_with_it(case):
    between, passes = BETWEEN[case]
    x, act = torch.randn(3, 2, 9, 9), core(4, dim=1)
    assert_folds(nn.Sequential(nn.Conv2d(2, 4, 3), act, between, nn.Conv2d(4, 2, 2)), x)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), between, act, nn.Conv2d(4, 2, 2))
    assert_folds(model, x, stays={} if passes else {"2": ["gain", "shift"]})
    act.set_shift(0.0)
    assert_folds(model, x)


@pytest.mark.parametrize("case", SHAPES)
def test_the_factor_goes_through_functions_and_methods(case):
    model = One(
        lambda net, x: net.out(SHAPES[case](net.act(net.conv(x)))),
        **{"conv": nn.Conv2d(2, 4, 3, padding=1), "act": core(4, dim=1), "out": nn.Linear(144, 2)},
    )
    assert_folds(model, torch.randn(3, 2, 6, 6))


@pytest.mark.parametrize("case", [c for c in SHAPES if c not in OFFSET_STAYS])
def test_one_slope_for_a_layer_goes_back_through_what_only_moves_values(case):
    model = One(
        lambda net, x: net.out(net.act(SHAPES[case](net.conv(x)))),
        **{"conv": nn.Conv2d(2, 4, 3, padding=1), "act": core(), "out": nn.Linear(144, 2)},
    )
    # A value that goes two ways to the same core still has one weight.
    assert_folds(model, torch.randn(3, 2, 6, 6), stays={})


def test_slopes_of_features_do_not_go_through_a_reshape():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), core(28), nn.Linear(28, 2))
    assert_folds(model, torch.randn(3, 2, 9), stays={"2": ["gain", "shift"]})


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("centered", "scale"), CENTERED)
def test_every_padding_of_a_convolution_is_exact(mode, centered, scale):
    def conv(a, b):
        return nn.Conv2d(a, b, 3, padding=1, padding_mode=mode)

    act = core(4, dim=1, centered=centered, scale=scale)
    model = nn.Sequential(conv(2, 4), act, conv(4, 4), core(4, dim=1), conv(4, 3))
    assert_folds(model, torch.randn(2, 2, 6, 6))


@pytest.mark.parametrize(
    ("layers", "stays"),
    [
        ((core(4), nn.Linear(4, 2)), {"0": ["gain", "shift"]}),
        ((nn.Linear(4, 4), core(4)), {"1": ["factor"]}),
        ((nn.Linear(4, 4), core(4, centered=False)), {}),
        ((nn.Linear(4, 4), core(4), nn.LayerNorm(4, eps=0.1)), {"1": ["factor"]}),  # whose epsilon is not scaled
        ((nn.Linear(4, 4), core(4), nn.BatchNorm1d(4, eps=0.1)), {"1": ["factor"]}),
    ],
)
def test_a_constant_without_a_layer_beside_it_stays(layers, stays):
    assert_folds(nn.Sequential(*layers), torch.randn(5, 4), stays=stays)


def test_a_residual_sum_keeps_the_factor_and_the_layers_take_the_slopes():
    model = One(
        lambda net, x: net.out(net.act1(net.b(h := net.act0(net.a(x)))) + h + x),
        **{"a": nn.Linear(4, 4), "act0": core(4), "b": nn.Linear(4, 4), "act1": core(4), "out": nn.Linear(4, 2)},
    )
    assert_folds(model, torch.randn(3, 4), stays={"act0": ["factor"], "act1": ["factor"]})


def test_a_sum_of_cores_of_one_scale_passes_the_factor_on():
    model = One(
        lambda net, x: net.out(net.act0(net.a(x)) - net.act1(net.b(x))),
        **{"a": nn.Linear(4, 4), "act0": core(4), "b": nn.Linear(4, 4), "act1": core(4), "out": nn.Linear(4, 2)},
    )
    assert_folds(model, torch.randn(3, 4))
    model.act1.scale = 3.0
    assert_folds(model, torch.randn(3, 4), stays={"act0": ["factor"], "act1": ["factor"]})


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_before_a_core_is_two_layers_that_take_in_one_slope(sign):
    model = Two(
        lambda net, x, h: net.out(net.act(net.a(x) + net.b(h) if sign > 0 else net.a(x) - net.b(h))),
        **{"a": nn.Linear(4, 5), "b": nn.Linear(3, 5), "act": core(5), "out": nn.Linear(5, 2)},
    )
    assert_folds(model, torch.randn(6, 4), torch.randn(6, 3))


def test_concatenated_branches_pass_one_factor_and_keep_several():
    def run(net, x):
        return net.out(torch.cat([net.act0(net.a(x)), F.max_pool2d(net.act1(net.b(x)), 3, 1, 1)], 1))

    modules = {"a": nn.Conv2d(2, 3, 1), "b": nn.Conv2d(2, 4, 3, padding=1), "out": nn.Conv2d(7, 2, 3)}
    model = One(run, **modules, act0=core(3, dim=1), act1=core(4, dim=1))
    assert_folds(model, torch.randn(2, 2, 6, 6))
    model.act1 = core(4, dim=1, centered=False)
    assert_folds(model, torch.randn(2, 2, 6, 6), stays={"act0": ["factor"]})


def test_all_consumers_take_the_factor_in_or_none_does():
    def run(net, x):
        h = net.act(net.a(x))
        return net.b(h), net.c(h).sum(), *([h * x] if net.also else [])

    model = One(run, a=nn.Linear(4, 4), act=core(4), b=nn.Linear(4, 2), c=nn.Linear(4, 3))
    model.also = False
    folded = assert_folds(model, torch.randn(3, 4))
    assert_same(folded.b.weight, model.b.weight / 2, 0)
    assert_same(folded.c.weight, model.c.weight / 2, 0)
    model.also = True
    folded = assert_folds(model, torch.randn(3, 4), stays={"act": ["factor"]})
    assert torch.equal(folded.b.weight, model.b.weight)


@pytest.mark.parametrize(
    "reads",
    [
        lambda net, h: F.linear(h, net.b.weight),
        lambda net, h: h @ net.b.weight.T,
        lambda net, h: h * torch.sigmoid(h),
        lambda net, h: F.layer_norm(h, (4,)),
        lambda net, h: h + 1,
        lambda net, h: F.pad(h, (1, 1), value=1.0),
        lambda net, h: h.relu() * 2,
    ],
)
def test_functional_consumers_keep_the_factor(reads):
    model = One(lambda net, x: reads(net, net.act(net.a(x))), a=nn.Linear(4, 4), act=core(4), b=nn.Linear(4, 4))
    assert_folds(model, torch.randn(3, 4), stays={"act": ["factor"]})


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_of_pytorch_take_the_factor_into_their_input_weights(kind):
    layer = kind(4, 3, num_layers=2, bidirectional=True)
    model = One(lambda net, x: net.layer(net.act(net.a(x)))[0], a=nn.Linear(4, 4), act=core(4), layer=layer)
    assert_folds(model, torch.randn(5, 2, 4))


def test_one_core_used_everywhere_goes_into_every_layer():
    act = core()
    assert_folds(nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 6), act, nn.Linear(6, 2)), torch.randn(3, 4))


def test_a_recurrence_unrolled_in_python_shares_its_weights_and_folds():
    def run(net, x):
        h = net.act(net.a(x[0]))
        for step in (1, 2, 3):
            h = net.act(net.a(x[step]) + net.b(h))
        return net.out(h)

    model = One(run, a=nn.Linear(4, 5), b=nn.Linear(5, 5, bias=False), act=core(5), out=nn.Linear(5, 2))
    folded = assert_folds(model, torch.randn(4, 3, 4))
    assert folded.b.bias is None


def test_a_layer_before_two_different_cores_keeps_its_weight():
    modules = {"a": nn.Linear(4, 4), "act0": core(4), "act1": core(4), "b": nn.Linear(4, 2)}
    model = One(lambda net, x: net.b(net.act0(net.a(x))) + net.b(net.act1(net.a(x))), **modules)
    folded = assert_folds(model, torch.randn(3, 4), stays={n: ["gain", "shift"] for n in ("act0", "act1")})
    assert torch.equal(folded.a.weight, model.a.weight)


def test_tied_weights_stay_tied_and_are_not_touched():
    tied = nn.Sequential(nn.Linear(4, 4), core(4), nn.Linear(4, 4), core(4), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    folded = assert_folds(tied, torch.randn(3, 4), stays={"1": ["factor", "gain", "shift"], "3": ["gain", "shift"]})
    assert folded[2].weight is folded[0].weight


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_that_is_computed_is_not_touched(norm):
    x = torch.randn(3, 4)
    with torch.no_grad():  # the old one leaves a computed weight, which only then can be copied
        model = nn.Sequential(norm(nn.Linear(4, 4)), core(4), norm(nn.Linear(4, 2))).eval()
        model(x)
    folded = sc.fold(model)
    assert kept(folded) == {"1": ["factor", "gain", "shift"]}
    assert_same(folded(x), model(x), 1e-6)


def test_a_layer_with_a_hook_is_not_touched():
    model = nn.Sequential(nn.Linear(4, 4), core(4), nn.Linear(4, 2))
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    folded = sc.fold(model)
    assert kept(folded) == {"1": ["gain", "shift"]}
    x = torch.randn(3, 4)
    assert_same(folded(x), model(x), 1e-6)
    assert_same(seen[0], seen[1], 0)
