"""PyTorch's recurrent layers as cores: the same function, any option; calibrated, the gradient lasts through time."""

import copy
import math
import pickle

import pytest
import torch
from core_support.networks import Net
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import sigmoidcore as sc
from sigmoidcore.calibration import recurrent_solver
from sigmoidcore.nn.recurrent import CoreGRU, CoreLSTM, CoreRNN, converted, folded
from sigmoidcore.nn.recurrent_cells import CELLS, Sequences

STEPS, BATCH, FEATURES, HIDDEN = 7, 5, 3, 6
PLAIN = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CORES = {"rnn": CoreRNN, "lstm": CoreLSTM, "gru": CoreGRU}
OPTIONS = [
    {},
    {"num_layers": 3},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bias": False, "num_layers": 2},
    {"num_layers": 2, "dropout": 0.5},
    {"dtype": torch.float64},
    {"proj_size": 2},
    {"proj_size": 4, "num_layers": 2, "bidirectional": True},
]
CASES = [
    pytest.param(kind, options, id=f"{kind}-{'-'.join(f'{k}={v}' for k, v in options.items())}")
    for kind in PLAIN
    for options in OPTIONS
    if kind == "lstm" or "proj_size" not in options
]


def disturbed(kind, **options):
    """A layer with no slope or shift at its start."""
    layer = CORES[kind](FEATURES, HIDDEN, **options)
    for suffix in layer.suffixes:
        slope = layer.tensor("slope", suffix)
        slope.mul_(torch.rand(slope.shape) + 0.5)
        layer.tensor("shift", suffix).normal_()
    return layer


def sequences(layer, steps=STEPS, batch=BATCH):
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    return torch.randn(*shape, layer.input_size, dtype=layer.weight_ih_l0.dtype)


def states(layer, batch=BATCH):
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    h, c = (
        torch.randn(count, batch, size, dtype=layer.weight_ih_l0.dtype)
        for size in (layer.proj_size or layer.hidden_size, layer.hidden_size)
    )
    return (h, c) if layer.mode == "LSTM" else h


def tensors(result):
    """All tensors of outputs and states, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for part in result if part is not None for t in tensors(part)]


def assert_same(one, other, atol=0.0):
    for a, b in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def unrolled(layer, *args):
    return layer.run_stepwise(*args, on_step=lambda step, memory: None)


def by_hand(layer, inputs):
    """The definition, row by row, in a loop of cores: outputs [steps, batch, hidden] of a layer in one direction."""
    get = {
        name: getattr(layer, f"{name}_l0")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "slope", "shift")
    }
    gates = len(get["slope"]) // layer.hidden_size
    slope, shift = get["slope"].chunk(gates), get["shift"].chunk(gates)
    h = c = inputs.new_zeros(inputs.shape[1], layer.hidden_size)
    outputs, memories = [], []
    for u in inputs:
        driven = (u @ get["weight_ih"].T + get["bias_ih"]).chunk(gates, -1)
        recurrent = (h @ get["weight_hh"].T + get["bias_hh"]).chunk(gates, -1)

        def gate(k, reset=1.0, driven=driven, recurrent=recurrent, **kind):
            return sc.sigmoid_core(driven[k] + reset * recurrent[k], slope[k], shift[k], **kind)

        tanh = {"centered": True, "scale": 2.0}
        if layer.mode == "LSTM":
            c = gate(1) * c + gate(0) * gate(2, **tanh)
            h = gate(3) * torch.tanh(c)
        elif layer.mode == "GRU":
            h = (1 - gate(1)) * gate(2, reset=gate(0), **tanh) + gate(1) * h
        else:
            h = gate(0, **tanh)
        memories.append(c if layer.mode == "LSTM" else h)
        outputs.append(h)
    return torch.stack(outputs), memories


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("with_state", [False, True])
def test_converted_it_computes_the_same_with_every_option(kind, options, with_state):
    plain = PLAIN[kind](FEATURES, HIDDEN, **options)
    layer = converted(plain)
    args = (sequences(plain), *([states(plain)] if with_state else []))
    torch.manual_seed(3)  # for dropout
    expected = plain(*args)
    torch.manual_seed(3)
    assert_same(layer(*args), expected, atol=0.0 if plain.bias else 1e-6)
    assert isinstance(layer, CORES[kind])


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("with_state", [False, True])
def test_step_by_step_it_computes_the_same_as_the_fused_kernel(kind, options, with_state):
    layer = disturbed(kind, **options).eval()
    args = (sequences(layer), *([states(layer)] if with_state else []))
    assert_same(unrolled(layer, *args), layer(*args), atol=1e-6)


@pytest.mark.parametrize("kind", PLAIN)
def test_values_are_those_of_a_loop_of_cores_with_a_slope_and_a_shift_for_every_row(kind):
    layer = disturbed(kind, dtype=torch.float64)
    inputs = sequences(layer)
    torch.testing.assert_close(layer(inputs)[0], by_hand(layer, inputs)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_packed_sequences_and_their_states(kind, options):
    plain = PLAIN[kind](FEATURES, HIDDEN, **options).eval()
    layer, other = converted(plain), disturbed(kind, **options).eval()
    inputs, state = sequences(plain), states(plain)
    packed = pack_padded_sequence(inputs, [3, 7, 1, 5, 5], batch_first=plain.batch_first, enforce_sorted=False)
    assert_same(layer(packed, state), plain(packed, state), atol=0.0 if plain.bias else 1e-6)
    for args in ((packed,), (packed, state)):
        assert_same(unrolled(other, *args), other(*args), atol=1e-6)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_unbatched_inputs(kind, bidirectional):
    layer = disturbed(kind, num_layers=2, bidirectional=bidirectional)
    inputs, state = torch.randn(STEPS, FEATURES), states(layer, 1)
    state = tuple(s.squeeze(1) for s in state) if kind == "lstm" else state.squeeze(1)
    for args in ((inputs,), (inputs, state)):
        expected = folded(layer)(*args)
        assert_same(layer(*args), expected, atol=1e-6)
        assert_same(unrolled(layer, *args), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_folded_it_is_the_plain_layer_and_computes_the_same(kind, options):
    layer = disturbed(kind, **options).eval()
    plain = folded(layer)
    assert type(plain) is PLAIN[kind]
    assert not plain.training
    assert plain.dropout == layer.dropout
    args = (sequences(layer), states(layer))
    assert_same(plain(*args), layer(*args), atol=1e-6)
    before = plain(*args)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()  # a copy
    assert_same(plain(*args), before)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("options", [{"bias": False}, {"num_layers": 2, "bidirectional": True}])
def test_state_dicts_of_the_plain_layer_load_strictly_and_reset_the_slopes(kind, options):
    plain, layer = PLAIN[kind](FEATURES, HIDDEN, **options).eval(), disturbed(kind, **options).eval()
    layer.load_state_dict(plain.state_dict(), strict=True)
    inputs = sequences(plain)
    assert_same(layer(inputs), plain(inputs), atol=0.0 if plain.bias else 1e-6)
    other, again = disturbed(kind, **options).eval(), CORES[kind](FEATURES, HIDDEN, **options).eval()
    again.load_state_dict(other.state_dict(), strict=True)
    assert_same(again(inputs), other(inputs))
    parameters = {k: v for k, v in again.state_dict().items() if not k.startswith(("slope", "shift", "steps"))}
    plain.load_state_dict(parameters, strict=True)
    with pytest.raises(RuntimeError, match="Missing key"):  # half of the slopes is an error, not a reset
        layer.load_state_dict({k: v for k, v in other.state_dict().items() if k != "shift_l0"})


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same_and_are_their_own(kind, copied):
    for layer in (disturbed(kind), converted(PLAIN[kind](FEATURES, HIDDEN))):
        inputs = sequences(layer)
        twin = copied(layer)
        expected = layer(inputs)
        assert_same(twin(inputs), expected)
        with torch.no_grad():
            twin.weight_hh_l0.zero_()
            twin.slope_l0.fill_(7.0)
        assert_same(layer(inputs), expected)
        assert float((twin(inputs)[0] - expected[0]).detach().abs().max()) > 1e-3


def test_converted_shares_parameters_hooks_and_mode_and_leaves_the_plain_layer_as_it_was():
    plain = nn.LSTM(FEATURES, HIDDEN).eval()
    seen = []
    plain.register_forward_hook(lambda *_: seen.append(1))
    layer = converted(plain)
    assert all(a is b for a, b in zip(layer.parameters(), plain.parameters(), strict=True))
    assert not layer.training
    layer(sequences(plain))
    assert seen == [1]
    assert list(plain.buffers()) == []
    layer.to(torch.float64)
    assert layer(sequences(layer))[0].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_slopes_stay_in_float32_where_weights_are_of_half_precision(dtype):
    layer = disturbed("lstm")
    slope = layer.slope_l0.clone()
    layer.to(dtype)
    assert torch.equal(layer.slope_l0, slope)
    assert converted(nn.LSTM(FEATURES, HIDDEN, dtype=dtype)).shift_l0.dtype == torch.float32
    assert layer(sequences(layer))[0].dtype == dtype


@pytest.mark.parametrize("kind", PLAIN)
def test_reset_gives_memory_without_values_new_weights_and_the_slopes_of_the_start(kind):
    layer = CORES[kind](FEATURES, HIDDEN, num_layers=2, device="meta").to_empty(device="cpu")
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.data.fill_(math.nan if tensor.is_floating_point() else 7)
    torch.manual_seed(4)
    layer.reset_parameters()
    torch.manual_seed(4)
    plain, inputs = PLAIN[kind](FEATURES, HIDDEN, num_layers=2), torch.randn(STEPS, BATCH, FEATURES)
    assert_same(layer(inputs), plain(inputs))


@pytest.mark.parametrize("kind", PLAIN)
def test_gradients_reach_inputs_and_all_weights_and_are_right(kind):
    layer = disturbed(kind, num_layers=2, bidirectional=True, dtype=torch.float64)
    inputs = sequences(layer, steps=3, batch=2).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def run(inputs, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (inputs,))[0]

    assert torch.autograd.gradcheck(run, (inputs, *parameters), fast_mode=True)
    layer(inputs)[0].square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in layer.parameters())


def test_compiled_with_the_graph_break_that_pytorch_makes_at_its_own_layers_it_follows_its_slopes():
    layer = disturbed("lstm")
    inputs = sequences(layer)
    compiled = torch.compile(layer, backend="eager")
    for _ in range(2):
        assert_same(compiled(inputs), layer(inputs))
        layer.slope_l0.mul_(1.5)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_profile_is_the_gradient_of_the_memory_in_an_independent_loop(kind):
    layer = disturbed(kind, dtype=torch.float64)
    inputs, cotangent = sequences(layer), torch.randn(BATCH, HIDDEN, dtype=torch.float64)

    def loss(outputs):
        return (outputs[-1] * cotangent).sum()

    outputs, memories = by_hand(layer, inputs)
    expected = [float(g.square().sum(-1).mean().sqrt()) for g in torch.autograd.grad(loss(outputs), memories)]
    profile = sc.gradient_profile(nn.Sequential(layer), inputs, 0, lambda result, _: loss(result[0]))
    assert profile.names == tuple(f"0[{t}]" for t in range(STEPS))
    torch.testing.assert_close(profile.sizes, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


class LastStep(nn.Module):
    """The last output through a linear head."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.LazyLinear(4)

    def forward(self, x):
        return self.head(self.layer(x)[0][-1])


def model_of(kind, hidden=48, **options):
    model = LastStep(CORES[kind](FEATURES, hidden, **options))
    model(torch.zeros(2, 1, FEATURES))
    return model


SPREADS = {"rnn": 4.0, "lstm": 2.0, "gru": 1.6}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("steps", [30, 120])
def test_calibrated_the_gradient_is_level_through_time_on_an_unseen_batch_too(kind, steps):
    model = model_of(kind)
    weights = copy.deepcopy(list(model.parameters()))
    report = sc.calibrate(model, torch.randn(steps, 100, FEATURES))
    unseen = sc.gradient_profile(model, torch.randn(steps, 100, FEATURES))
    assert report.before.spread > 1e5
    # Without gates and with weights that are not orthogonal, a few of the samples carry most of the gradient.
    most = 30 if kind == "rnn" and steps == 120 else SPREADS[kind]
    assert report.after.spread < most
    assert unseen.spread < 1.5 * most
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert most == 30 or report.notes == ()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_mean_of_the_gates_is_that_of_time_constants_from_2_to_the_length(kind):
    model, inputs = model_of(kind), torch.randn(50, 100, FEATURES)
    sc.calibrate(model, inputs)
    layer = model.layer
    tau = 2.5 + torch.arange(48, dtype=torch.float64)
    gates = len(layer.slope_l0) // 48
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    z = layer.slope_l0 * (inputs.flatten(0, 1).mean(0) @ layer.weight_ih_l0.T + bias - layer.shift_l0)
    keep = torch.sigmoid(z.double()).chunk(gates)[1]
    torch.testing.assert_close(keep, 1 - 1 / tau, rtol=0, atol=1e-5)
    if kind == "lstm":
        torch.testing.assert_close(torch.sigmoid(z.double()).chunk(gates)[0], 1 / tau, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", PLAIN)
def test_prepared_every_gate_is_orthogonal_level_and_at_the_saturation_level_asked_for(kind):
    model, inputs = model_of(kind), torch.randn(60, 100, FEATURES)
    report = sc.prepare(model, inputs, saturation=0.7)
    for gate in model.layer.weight_hh_l0.chunk(len(CELLS[model.layer.mode].slopes)):
        torch.testing.assert_close(gate @ gate.T, torch.eye(48), rtol=0, atol=1e-5)
    assert not bool(model.layer.bias_ih_l0.any() or model.layer.bias_hh_l0.any())
    assert report.after.spread < SPREADS[kind]
    assert float(report.levels[0]) == pytest.approx(0.7, rel=0.05)
    assert sc.gradient_profile(model, torch.randn(60, 100, FEATURES)).spread < 1.5 * SPREADS[kind]


@pytest.mark.parametrize("kind", PLAIN)
def test_every_layer_and_direction_is_levelled_by_itself_and_named_after_pytorch(kind):
    model = model_of(kind, num_layers=2, bidirectional=True)
    inputs = torch.randn(40, 60, FEATURES)
    report = sc.calibrate(model, inputs)
    names = [f"layer[{s},{t}]" for s in ("l0", "l0_reverse", "l1", "l1_reverse") for t in range(40)]
    assert sorted(report.after.names) == sorted(names)
    layer, cell = model.layer, CELLS[model.layer.mode]
    sequence = inputs
    for number in range(2):
        outputs = []
        for suffix in layer.suffixes[2 * number : 2 * number + 2]:
            reverse = suffix.endswith("_reverse")
            logs = recurrent_solver.log_sizes(Sequences(cell, sequence, reverse), layer.effective_weights(suffix))
            assert abs(recurrent_solver.tilt(logs)) < 0.5
            one = CORES[kind](sequence.shape[-1], 48)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "slope", "shift"):
                getattr(one, f"{name}_l0").data.copy_(getattr(layer, f"{name}_{suffix}"))
            out = one(sequence.flip(0))[0].flip(0) if reverse else one(sequence)[0]
            outputs.append(out.detach())
        sequence = torch.cat(outputs, -1)
    torch.testing.assert_close(sequence, layer(inputs)[0], rtol=0, atol=1e-5)


def test_packed_sequences_are_calibrated_without_their_padding():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = CoreLSTM(FEATURES, 48)
            self.head = nn.Linear(48, 4)

        def forward(self, *sequences):
            return self.head(self.layer(pack_sequence(sequences, enforce_sorted=False))[1][0][-1])

    lengths = [*range(20, 60), *[60] * 20]
    model = Packed()
    report = sc.calibrate(model, tuple(torch.randn(n, FEATURES) + 5 for n in lengths))
    assert report.after.spread < 3
    assert report.before.spread > 100
    unseen = sc.gradient_profile(model, tuple(torch.randn(n, FEATURES) + 5 for n in lengths))
    assert unseen.spread < 3
    layer = model.layer
    z = layer.slope_l0 * (5 * layer.weight_ih_l0.sum(1) + layer.bias_ih_l0 + layer.bias_hh_l0 - layer.shift_l0)
    assert float(z.detach().chunk(4)[3].abs().max()) < 1  # a mean with zeros of the padding would be off by several


def test_cores_before_and_after_a_recurrent_layer_are_calibrated_with_it():
    before = nn.Sequential(nn.Linear(FEATURES, 32), sc.SigmoidCore(32, centered=True))
    parts = {"before": before, "layer": CoreLSTM(32, 48, batch_first=True), "after": sc.MLP(48, 32, 5, 4)}
    model = Net(lambda m, x: m.after(m.layer(m.before(x))[1][0][-1]), **parts)  # the last state, not the outputs
    inputs = torch.randn(100, 40, FEATURES)
    report = sc.calibrate(model, inputs)
    deep = [i for i, name in enumerate(report.after.names) if name.startswith("after")]
    time = [i for i, name in enumerate(report.after.names) if name.startswith("layer")]
    sizes = report.after.sizes
    assert len(deep) == 5
    assert sc.Profile((), sizes[deep]).spread < 1.3
    assert sc.Profile((), sizes[time]).spread < 2
    assert float(sizes[time].square().sum().sqrt() / sizes[0]) == pytest.approx(1, abs=0.1)  # all its steps together


@pytest.mark.parametrize("factor", [0.0, 1e6])
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("part", ["weight_hh_l0", "inputs"])
def test_hostile_weights_and_inputs_never_make_a_slope_that_is_not_finite(kind, factor, part):
    model, inputs = model_of(kind), torch.randn(40, 50, FEATURES)
    if part == "inputs":
        inputs *= factor
    else:
        with torch.no_grad():
            getattr(model.layer, part).mul_(factor)
    report = sc.calibrate(model, inputs)
    for name, buffer in model.layer.named_buffers():
        assert bool(torch.isfinite(buffer).all())
        assert not name.startswith("slope") or bool((buffer > 0).all())
    assert math.isfinite(float(report.levels[0]))


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        (nn.LSTMCell(3, 4), TypeError, "LSTMCell cannot be made of cores: a cell does not see its sequence"),
        (nn.GRUCell(3, 4), TypeError, "use nn.RNN, nn.LSTM or nn.GRU"),
        (nn.Linear(3, 4), TypeError, "Linear cannot be made of cores"),
        (CoreGRU(3, 4), TypeError, "made of cores already"),
    ],
)
def test_a_layer_that_cannot_be_converted_is_an_error_with_the_reason(layer, error, words):
    with pytest.raises(error, match=words):
        converted(layer)


def test_relu_and_layers_without_cores_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"relu has no sigmoids.*use nonlinearity='tanh'"):
        CoreRNN(3, 4, nonlinearity="relu")
    with pytest.raises(TypeError, match="folded takes a CoreRNN, CoreLSTM or CoreGRU, got LSTM"):
        folded(nn.LSTM(3, 4))


@pytest.mark.parametrize("kind", PLAIN)
def test_weights_that_are_not_finite_are_an_error_and_change_nothing(kind):
    model = model_of(kind)
    with torch.no_grad():
        model.layer.weight_hh_l0[0, 0] = math.nan
    before = copy.deepcopy(dict(model.named_buffers()))
    with pytest.raises(ValueError, match="no slopes give finite gradients"):
        sc.calibrate(model, torch.randn(20, 30, FEATURES))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_a_note_says_that_saturation_has_no_effect_without_fresh_weights():
    report = sc.calibrate(model_of("gru"), torch.randn(20, 30, FEATURES), saturation=0.5)
    assert any("only `prepare` gives it a saturation level" in note for note in report.notes)
    assert sc.prepare(model_of("gru"), torch.randn(20, 30, FEATURES), saturation=0.5).notes == ()


LONG, INPUTS, UNITS = 50, 3, 32


class Classifier(nn.Module):
    """The last output of a recurrent layer through a Linear head."""

    def __init__(self):
        super().__init__()
        self.rnn = CoreRNN(INPUTS, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.fixture
def prepared():
    model, inputs = Classifier(), torch.randn(100, LONG, INPUTS)
    return model, inputs, sc.prepare(model, inputs)


def test_the_equalizer_refuses_a_model_of_recurrent_cores_only():
    model = Classifier()
    with pytest.raises(ValueError, match="recurrent cores only"):
        sc.Equalizer(model, torch.optim.Adam(model.parameters()))


def test_prepare_makes_the_gradient_keep_its_size_through_time(prepared):
    model, _, report = prepared
    assert report.after.names == tuple(f"rnn[{t}]" for t in range(LONG))
    assert report.after.spread < 10
    assert report.before.spread > 30 * report.after.spread
    unseen = sc.gradient_profile(model, torch.randn(100, LONG, INPUTS))
    assert unseen.spread < 10


def test_prepare_makes_the_hidden_weights_orthogonal_and_remembers_the_number_of_steps(prepared):
    rnn = prepared[0].rnn
    torch.testing.assert_close(rnn.weight_hh_l0 @ rnn.weight_hh_l0.T, torch.eye(UNITS), rtol=0, atol=1e-5)
    assert int(rnn.steps) == LONG
    assert not bool(rnn.bias_ih_l0.any())


@pytest.mark.parametrize("saturation", [0.3, 0.5, 1.0])
def test_prepare_sets_the_saturation_level_over_time(saturation):
    model, inputs = Classifier(), torch.randn(200, LONG, INPUTS)
    report = sc.prepare(model, inputs, saturation=saturation)
    seen = []
    with torch.no_grad():
        model.rnn.run_stepwise(inputs, on_step=lambda t, h: seen.append(h))
    z = 2 * torch.atanh(torch.stack(seen))
    assert float((z - z.mean((0, 1))).square().mean().sqrt()) == pytest.approx(saturation, rel=0.15)
    assert float(report.levels[0]) == pytest.approx(saturation, rel=0.15)


def test_a_state_dict_has_the_number_of_steps_and_that_of_a_plain_layer_resets_it(prepared):
    model, other = prepared[0], Classifier()
    other.load_state_dict(model.state_dict())
    assert int(other.rnn.steps) == LONG
    other.load_state_dict(dict(model.named_parameters()))
    assert (int(other.rnn.steps), other.rnn.slope_l0.tolist()) == (0, [2.0] * UNITS)
