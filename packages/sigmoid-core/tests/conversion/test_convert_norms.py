"""convert(norms=True): normalisations become bounded norms; a Dynamic Tanh becomes one with the same function."""

import copy

import pytest
import torch
from core_support.conversions import unchanged, why
from torch import nn

import sigmoidcore as sc


class RMSNorm(nn.Module):
    """As in Hugging Face's Llama."""

    def __init__(self, size, one=0.0):
        super().__init__()
        self.weight, self.variance_epsilon, self.one = nn.Parameter(torch.rand(size)), 1e-6, one

    def forward(self, hidden_states):
        x = hidden_states.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.one + self.weight) * x.to(hidden_states.dtype)


class DynamicTanh(nn.Module):
    """As its authors publish it; with erf, the Derf of their next paper."""

    def __init__(self, size, function=torch.tanh, **more):
        super().__init__()
        self.alpha, self.function = nn.Parameter(torch.full((1,), 0.7)), function
        self.weight, self.bias = nn.Parameter(torch.rand(size)), nn.Parameter(torch.rand(size))
        for name, value in more.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))

    def forward(self, x):
        return self.function(self.alpha * x) * self.weight + self.bias


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def with_norm(norm):
    return nn.Sequential(nn.Linear(3, 8), norm, nn.Linear(8, 2))


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(8),
        nn.LayerNorm(8, bias=False),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.RMSNorm(8),
        nn.RMSNorm(8, elementwise_affine=False),
        RMSNorm(8),
        RMSNorm(8, one=1.0),
    ],
    ids=repr,
)
def test_a_norm_becomes_a_tanh_of_its_size_and_keeps_its_parameters(norm):
    model = with_norm(norm)
    plain, parameters = copy.deepcopy(model), dict(model.named_parameters())
    report = sc.convert(model, norms=True)
    assert report.changed == ("1",)
    assert why(report, "1") == "in the place of a norm, another function"
    assert all(dict(model.named_parameters())[name] is value for name, value in parameters.items())
    x = torch.randn(1000, 8)
    torch.testing.assert_close(model[1](x).norm(), plain[1](x).norm(), rtol=0.02, atol=0)
    model.load_state_dict(plain.state_dict(), strict=True)


def test_norms_stay_unless_they_are_asked_for_and_excluded_ones_always():
    model = nn.Sequential(nn.LayerNorm(3), with_norm(nn.LayerNorm(8)))
    assert sc.convert(model).activations == ()
    report = sc.convert(model, norms=True, exclude="0")
    assert (report.converted, why(report, "0")) == (("1.1",), "excluded")
    assert sc.convert(model, norms=True, exclude="0").converted == ()  # those are cores already


@pytest.mark.parametrize("norm", [ChannelsFirst(8), nn.LayerNorm(8).to("meta")], ids=["channels first", "meta"])
def test_a_norm_whose_function_is_not_known_to_be_over_the_last_dimension_is_left(norm):
    model = with_norm(norm)
    assert sc.convert(model, norms=True).left == ("1",)
    assert model[1] is norm


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_an_encoder_of_pytorch_takes_no_shortcut_around_the_new_places():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    x, layer = torch.randn(4, 5, 8), model.layers[0]
    assert len(sc.convert(model, norms=True).changed) == 4
    sc.calibrate(model, x)
    padding = torch.arange(5).expand(4, 5) > 2
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), model.train()(x))
        masked = model.eval()(x, src_key_padding_mask=padding)
        torch.testing.assert_close(masked, model.train()(x, src_key_padding_mask=padding))
        for part in (layer, sc.fold(layer), copy.deepcopy(sc.fold(layer))):
            torch.testing.assert_close(part.eval()(x), part.train()(x))


@pytest.mark.parametrize("affine", [True, False])
def test_slope_and_gain_have_the_dtype_of_the_weights_and_float32_beside_half_precision(affine):
    for dtype, wanted in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        model = with_norm(nn.LayerNorm(8, elementwise_affine=affine)).to(dtype)
        sc.convert(model, norms=True)
        assert {buffer.dtype for buffer in model.buffers()} == {wanted}
        assert model(torch.randn(5, 3, dtype=dtype)).dtype == dtype


OTHERS = "it does not normalise over the last dimension alone"


class OverFeatures(nn.Module):
    """Over all dimensions but the first, which is the last one alone for a batch of vectors only."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-5

    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[1:]) * self.weight


class NormOfOtherNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return nn.functional.rms_norm(x, (8,), self.scale)


class CheckingNorm(nn.Module):
    def forward(self, x):
        assert x.shape == (2, 2, 8)
        return nn.functional.rms_norm(x, (8,))


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (nn.BatchNorm1d(8, track_running_stats=False), OTHERS),
        (nn.InstanceNorm1d(8), OTHERS),
        (nn.GroupNorm(1, 8), OTHERS),
        (OverFeatures(), OTHERS),
        (CheckingNorm(), OTHERS),
        (NormOfOtherNames(), "its parameters are scale: a bounded norm has those of the names weight and bias"),
        (
            nn.utils.parametrizations.weight_norm(nn.LayerNorm(8), dim=None),
            "its parameters are computed (a parametrization): convert first and parametrize then",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_norms_are_left_and_the_report_says_why(norm, reason):
    model = with_norm(norm)
    assert why(sc.convert(model, norms=True), "1") == reason
    assert model[1] is norm


def test_a_norm_without_parameters_in_a_class_of_the_user_becomes_a_tanh_of_its_size():
    class PlainNorm(nn.Module):
        def forward(self, x):
            return nn.functional.layer_norm(x, x.shape[-1:])

    model = with_norm(PlainNorm())
    assert sc.convert(model, norms=True).changed == ("1",)
    torch.testing.assert_close(model[1](torch.randn(999, 8)).square().mean(), torch.tensor(1.0), rtol=0.05, atol=0)


def test_names_of_norms_belong_into_exclude():
    model = with_norm(nn.LayerNorm(8))
    with pytest.raises(TypeError, match=r"norms must be True or False, got '1'; exclude= names norms that stay"):
        sc.convert(model, norms="1")
    with pytest.raises(ValueError, match="'1' is a LayerNorm, not an activation; norms=True converts norms"):
        sc.convert(model, include="1")
    assert isinstance(model[1], nn.LayerNorm)


def test_a_dynamic_tanh_becomes_a_core_with_the_same_function_and_takes_its_checkpoints():
    model = with_norm(DynamicTanh(8))
    plain, x = copy.deepcopy(model), torch.randn(50, 3)
    report = sc.convert(model, norms=True)
    assert (report.converted, report.changed) == (("1",), ())
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-6)
    plain[1].alpha.data.fill_(2.0)
    model.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-6)
    again = sc.convert(with_norm(DynamicTanh(8)), norms=True)
    assert again.converted == ("1",)


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (DynamicTanh(8, torch.erf, shift=0.0), "it is an erf (Derf)"),
        (DynamicTanh(8, torch.sin), "does not compute tanh"),
    ],
    ids=["Derf", "sine"],
)
def test_functions_that_no_core_computes_are_left(norm, reason):
    model = with_norm(norm)
    assert reason in why(sc.convert(model, norms=True), "1")
    assert model[1] is norm


def test_without_norms_the_tanh_of_a_dynamic_tanh_is_an_activation_like_any_other():
    unchanged(with_norm(DynamicTanh(8)), torch.randn(5, 3))
