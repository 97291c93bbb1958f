"""convert on models with recurrent layers: they become layers of cores in place, or are left with the reason."""

import copy

import pytest
import torch
from core_support.conversions import unchanged, why
from core_support.networks import Net
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence

import sigmoidcore as sc
from sigmoidcore.conversion.tracing import UntraceableError
from sigmoidcore.nn.recurrent import CoreGRU, CoreLSTM, CoreRNN

BATCH, STEPS, FEATURES, HIDDEN = 5, 7, 3, 6
KINDS = {nn.RNN: CoreRNN, nn.LSTM: CoreLSTM, nn.GRU: CoreGRU}
GATES = "a slope for every gate row"
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "dtype": torch.float64}]


def layer_of(kind=nn.LSTM, **options):
    return kind(FEATURES, HIDDEN, **options)


class Reader(nn.Module):
    """A hidden layer, then the recurrent layer, then its ends, for both directions, through a call of tanh."""

    def __init__(self, layer):
        super().__init__()
        width = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        dtype = layer.weight_hh_l0.dtype
        self.before, self.act = nn.Linear(FEATURES, FEATURES, dtype=dtype), nn.Sigmoid()
        self.layer = layer
        self.hidden, self.head = nn.Linear(width, 8, dtype=dtype), nn.Linear(8, 2, dtype=dtype)

    def forward(self, x):
        outputs, _ = self.layer(self.act(self.before(x)))
        return self.head(torch.tanh(self.hidden(outputs[-1] + outputs[0])))


class Packed(nn.Module):
    """As many write it: sequences of unlike lengths, whose forward torch.fx cannot follow."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.layer = layer_of(kind, batch_first=True)
        self.head = nn.Sequential(nn.Linear(HIDDEN, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        lengths = [len(x[0]) - i for i in range(len(x))]
        _, state = self.layer(pack_padded_sequence(x, lengths, batch_first=True))
        return self.head(state[0][-1] if isinstance(state, tuple) else state[-1])


def sequences(batch=BATCH, steps=STEPS, dtype=torch.float32):
    return torch.randn(steps, batch, FEATURES, dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [True, False])
def test_a_recurrent_layer_becomes_one_of_cores_with_the_same_function_and_parameters(kind, options, training):
    model = Reader(layer_of(kind, **options)).train(training)
    report = unchanged(model, sequences(dtype=options.get("dtype", torch.float32)))
    assert type(model.layer) is KINDS[kind]
    assert report.converted == ("tanh", "act", "layer")
    assert why(report, "layer") == GATES
    assert all(getattr(model.layer, name) == value for name, value in options.items() if name != "dtype")
    assert model.layer.training is training
    assert (model.layer.slope_l0.dtype, model.layer.slope_l0.device) == (model.head.weight.dtype, torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_in_a_forward_that_cannot_be_traced(kind):
    model = Packed(kind)
    report = unchanged(model, torch.randn(BATCH, STEPS, FEATURES))
    assert report.converted == ("layer", "head.1")
    assert why(report, "layer") == GATES
    assert [name for name, _ in report.unseen] == [""]


@pytest.mark.parametrize("read", [lambda y, x: y, lambda y, x: torch.sigmoid(y) * x, lambda y, x: torch.zeros(1)])
def test_wherever_its_result_goes_for_its_range_stays(read):
    model = Net(lambda m, x: read(m.layer(x)[0], x) + 0 * x.sum(), layer=nn.GRU(FEATURES, FEATURES))
    sc.convert(model)
    assert type(model.layer) is CoreGRU


class OwnLSTM(nn.LSTM):
    pass


def with_forward_of_its_own():
    layer = layer_of()
    layer.forward = layer.forward
    return layer


def quantized():
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer_of()), {nn.LSTM}, dtype=torch.qint8)[0]


LEFT = {
    "relu": (lambda: layer_of(nn.RNN, nonlinearity="relu"), "relu has no sigmoids"),
    "subclass": (lambda: OwnLSTM(FEATURES, HIDDEN), "its forward need not be that of its base class"),
    "parametrized": (
        lambda: nn.utils.parametrizations.weight_norm(layer_of(), "weight_hh_l0"),
        "take off parametrizations",
    ),
    "weight norm": (
        lambda: nn.utils.weight_norm(layer_of(), "weight_hh_l0"),
        r"computed from other parameters .*; take that off first",
    ),
    "pruned": (lambda: prune.random_unstructured(layer_of(), "weight_ih_l0", 0.5), "computed from other parameters"),
    "own forward": (with_forward_of_its_own, "its forward was set on the instance; convert first"),
    "quantized": (quantized, "its weights are quantized"),
}


@pytest.mark.filterwarnings("ignore")  # some of these are deprecated, and still in use
@pytest.mark.parametrize("case", LEFT)
def test_a_layer_that_cannot_be_converted_is_left_with_the_reason(case):
    make, reason = LEFT[case]
    model = nn.Sequential(make())
    layer = model[0]
    report = sc.convert(model)
    assert report.converted == ()
    assert model[0] is layer
    with pytest.raises((TypeError, ValueError), match=reason) as error:
        sc.recurrent.converted(layer)
    assert why(report, "0") in str(error.value)
    with pytest.raises(ValueError, match=r"include: '0' \(.*\) ") as error:
        sc.convert(model, include="0")
    assert why(report, "0") in str(error.value)
    assert model[0] is layer


def test_a_layer_in_several_places_is_left_so_that_the_rest_can_be_calibrated():
    encoder, other = nn.LSTM(FEATURES, FEATURES), nn.GRU(FEATURES, FEATURES)
    twins = {"encoder": encoder, "other": other, "again": encoder}
    model = Net(lambda m, x: m.other(m.encoder(x)[0] - m.again(-x)[0])[0], **twins)
    report = unchanged(model, sequences())
    assert report.converted == ("other",)
    assert why(report, "encoder") == "is used in 2 places, which need one each: give each place its own module"
    names = sc.calibrate(model, sequences(50, 10)).after.names
    assert names == tuple(f"other[{t}]" for t in range(10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_converted_prepared_trained_and_folded_it_is_the_plain_model_again(kind, options):
    plain = Reader(layer_of(kind, **options)).double()
    model, x = copy.deepcopy(plain), sequences(40, 12, torch.float64)
    targets = (x[0, :, 0] > 0).long()
    sc.convert(model)
    report = sc.prepare(model, x)
    assert {name.partition("[")[0] for name in report.after.names} == {"act", "layer", "tanh"}
    assert report.after.spread < report.before.spread
    assert sc.gradient_profile(model, x).spread == pytest.approx(report.after.spread)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    folded = sc.fold(model)
    assert type(folded.layer) is kind
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-12)
    plain.load_state_dict(folded.state_dict(), strict=True)
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-12)


def test_the_equalizer_watches_the_cores_and_leaves_the_recurrent_layer_alone():
    model, x = Reader(layer_of()), sequences(50)
    sc.convert(model)
    sc.calibrate(model, x)
    with torch.no_grad():
        model.before.bias.add_(50.0)  # the first core saturates
    slopes, shift = model.layer.slope_l0.clone(), model.act.shift.clone()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with sc.Equalizer(model, optimizer, every=1) as equalizer:
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert len(equalizer.history) == 3
    assert all(len(sample.log_sizes) == 2 for sample in equalizer.history)
    assert sum(sample.neurons for sample in equalizer.history) > 0
    assert not torch.equal(model.act.shift, shift)
    assert torch.equal(model.layer.slope_l0, slopes)


def test_folded_a_forward_that_cannot_be_traced_has_the_plain_layer_if_there_are_no_other_cores():
    model, x = Packed(), torch.randn(40, 40, FEATURES)
    sc.convert(model, exclude=nn.Tanh)
    report = sc.calibrate(model, x)
    assert report.after.spread < report.before.spread
    folded = sc.fold(model)
    assert type(folded.layer) is nn.LSTM
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-5)
    Packed().load_state_dict(folded.state_dict(), strict=True)


@pytest.mark.parametrize("seed", [4, 6, 8])
def test_slopes_that_would_make_the_gradient_through_time_less_even_are_not_taken(seed):
    torch.manual_seed(seed)
    model, x = Packed(), torch.randn(40, 40, FEATURES)
    sc.convert(model, exclude=nn.Tanh)
    slope = model.layer.slope_l0.clone()
    report = sc.calibrate(model, x)
    assert torch.equal(model.layer.slope_l0, slope)
    assert report.after.spread == pytest.approx(report.before.spread)
    assert any("no slopes of l0 make its gradient level" in note for note in report.notes)


def test_of_a_forward_that_cannot_be_traced_fold_names_recurrent_layers_among_the_parts():
    model, x = Packed(), torch.randn(40, 40, FEATURES)
    sc.convert(model)
    sc.calibrate(model, x)
    with pytest.raises(UntraceableError, match="fold the parts"):
        sc.fold(model)
    before = model(x)
    for part in ("layer", "head"):
        model.set_submodule(part, sc.fold(model.get_submodule(part)))
    assert not any(type(m).__module__.startswith("sigmoidcore") for m in model.modules())
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-5)
