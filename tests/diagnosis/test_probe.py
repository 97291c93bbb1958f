"""The probe's numbers, against autograd and NumPy; and that nothing is changed by taking them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from support.measuring import Forward, layer, measured, mlp, module_gradients, names, size
from support.untouched import untouched
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import sigmoidcore as sc
from sigmoidcore._torch.hooks import global_hooks
from sigmoidcore.diagnosis.measure.measurement import BINS, STEPS
from sigmoidcore.diagnosis.measure.probe import Probe
from sigmoidcore.diagnosis.measure.statistics import KEPT
from sigmoidcore.observation.process_group import Ranks

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(32) % 3


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ELU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


NETWORKS = {
    "mlp of sigmoids": (lambda: mlp(nn.Sigmoid), (32, 6)),
    "mlp of relus": (lambda: mlp(nn.ReLU, depth=6), (32, 6)),
    "mlp of gelus on sequences": (lambda: nn.Sequential(mlp(nn.GELU), nn.Flatten(), nn.Linear(15, 3)), (32, 5, 6)),
    "convolutional": (convolutional, (8, 3, 5, 5)),
    "of cores": (lambda: sc.MLP(6, 8, 4, 3), (32, 6)),
}


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")], ids=["mean", "sum"])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradient_sizes_equal_those_of_autograd(network, loss_fn):
    make, shape = NETWORKS[network]
    model, x = make(), torch.randn(shape)
    y = torch.arange(shape[0]) % 3
    outputs, gradients = module_gradients(model, x, y, loss_fn)
    m = measured(model, x, y, loss_fn)
    assert len(m.layers) >= 5
    for row in m.layers:
        assert row.gradient == pytest.approx(size(gradients[row.name]), rel=1e-5)
        assert row.nonfinite_gradient == 0
    assert m.loss == pytest.approx(loss_fn(outputs[names(m)[-1]], y).item(), rel=1e-6)
    for weight, (name, parameter) in zip(m.weights, model.named_parameters(), strict=True):
        assert (weight.name, weight.shape) == (name, tuple(parameter.shape))
        assert (weight.trains, weight.used, weight.alike, weight.update) == (True, True, False, None)
        assert weight.size == pytest.approx(float(parameter.detach().double().norm()), rel=1e-6)
        assert weight.gradient == pytest.approx(float(parameter.grad.double().norm()), rel=1e-5)


def test_gradients_of_attention_and_functions_equal_those_of_autograd():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(40, 3))
    x = torch.randn(32, 5, 8)
    m = measured(model, x, Y, nn.CrossEntropyLoss())
    kept = {}

    class Keep(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **kwargs or {})
            name = func.__name__
            if name in ("multi_head_attention_forward", "relu", "linear"):
                output = result[0] if isinstance(result, tuple) else result
                output.retain_grad()
                kept.setdefault(name, []).append(output)
            return result

    model.eval()
    with Keep():
        nn.CrossEntropyLoss()(model(x), Y).backward()
    expected = {
        "0.self_attn": kept["multi_head_attention_forward"][0],
        "0.linear1": kept["linear"][0],
        "0.relu": kept["relu"][0],
        "0.linear2": kept["linear"][1],
        "2": kept["linear"][2],
    }
    assert names(m) == list(expected)
    for name, output in expected.items():
        assert layer(m, name).gradient == pytest.approx(size(output.grad, 32), rel=1e-5)


def test_each_call_of_a_shared_layer_has_its_own_gradient():
    model = Forward(lambda s, x: s.out(torch.tanh(s.fc(torch.tanh(s.fc(x))))), fc=nn.Linear(6, 6), out=nn.Linear(6, 3))
    first = model.fc(X)
    second = model.fc(torch.tanh(first))
    loss = functional.cross_entropy(model.out(torch.tanh(second)), Y)
    by_first, by_second = torch.autograd.grad(loss, (first, second))
    m = measured(model, X, Y, functional.cross_entropy)
    assert layer(m, "fc").gradient == pytest.approx(size(by_first), rel=1e-5)
    assert layer(m, "fc@2").gradient == pytest.approx(size(by_second), rel=1e-5)


def test_gain_is_the_largest_source_gradient_over_the_own_gradient():
    model = Forward(lambda s, x: s.out(s.a(x) + 5 * s.b(x)), a=nn.Linear(6, 8), b=nn.Linear(6, 8), out=nn.Linear(8, 3))
    m = measured(model, X, Y, functional.cross_entropy)
    a, b, out = m.layers
    assert a.gain is None
    assert b.gain is None
    assert out.gain == pytest.approx(b.gradient / out.gradient, rel=1e-12)
    assert b.gradient == pytest.approx(5 * a.gradient, rel=1e-6)


def test_a_layer_behind_a_detach_has_no_gradient_and_its_successor_no_gain():
    model = Forward(lambda s, x: s.b(torch.relu(s.a(x)).detach()), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    m = measured(model, X, Y, functional.cross_entropy)
    assert [row.gradient is None for row in m.layers] == [True, True, False]
    assert m.layers[2].gain is None


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


def test_histograms_equal_those_of_numpy():
    model, x = nn.Linear(6, 8), torch.randn(KEPT // 8, 6)
    y = model(x).detach().double().numpy()
    (row,) = measured(model, x).layers
    assert y.size == KEPT  # all are kept
    assert (row.low, row.high) == (y.min(), y.max())
    expected, _ = np.histogram(y, BINS, (row.low, row.high))
    assert len(row.histogram) == BINS
    assert sum(row.histogram) == y.size
    assert np.abs(np.array(row.histogram) - expected).sum() <= 2  # numbers on an edge


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
    row = m.layers[0]
    assert math.isfinite(row.low)
    assert math.isfinite(row.high)
    assert 0 < sum(row.histogram) <= 256 - 16


def test_an_output_without_any_finite_number_has_no_histogram():
    m = measured(nn.Linear(6, 3), torch.full((8, 6), math.nan))
    assert m.layers[0].histogram is None
    assert m.layers[0].low is None
    assert m.layers[0].nonfinite == 24


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


def entropy(weights, allowed):
    """Mean over the queries with more than one key of the entropy over its largest; by head, of [B, H, Q, K]."""
    w = weights.detach().double()
    relative = -(w * torch.where(w > 0, w, 1).log()).sum(-1) / allowed.double().log()
    known = allowed.expand(relative.shape) > 1
    total = float(relative[known].mean())
    by_head = [float(relative[:, h][known[:, h]].mean()) for h in range(w.shape[1])]
    return total, by_head


def project(attention, x):
    """Queries and keys by head, as MultiheadAttention makes them."""
    q, k, _ = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    heads, width = attention.num_heads, x.shape[-1] // attention.num_heads
    return [t.view(*x.shape[:2], heads, width).transpose(1, 2) for t in (q, k)]


MASKS = ["none", "causal and sent on", "float", "float padding", "both", "by head"]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", MASKS)
def test_the_entropy_of_multihead_attention_equals_a_calculation_by_hand(kind, batch_first):
    steps = 6
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    with torch.no_grad():
        attention.in_proj_weight.mul_(4)
    x = torch.randn(4, steps, 8)
    causal = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    padding = torch.arange(steps) >= torch.tensor([6, 4, 3, 1])[:, None]
    given, hidden = {}, torch.zeros(4, 2, steps, steps, dtype=torch.bool)
    if kind == "both":
        given["attn_mask"], hidden = causal, hidden | causal
    if kind == "causal and sent on":
        given.update(attn_mask=causal, is_causal=True, need_weights=False)
        hidden = hidden | causal
    if kind == "float":
        given["attn_mask"], hidden = torch.zeros(steps, steps).masked_fill(causal, -math.inf), hidden | causal
    if kind == "by head":
        own = torch.rand(8, steps, steps) > 0.5
        own |= torch.eye(steps, dtype=torch.bool)
        given["attn_mask"], hidden = ~own, ~own.view(4, 2, steps, steps)
    if kind == "both":
        given["key_padding_mask"], hidden = padding, hidden | padding[:, None, None]
    if kind == "float padding":
        given["key_padding_mask"] = torch.zeros(4, steps).masked_fill(padding, -1e4)
        hidden = hidden | padding[:, None, None]

    def forward(s, x):
        x = x if batch_first else x.transpose(0, 1)
        return s.attention(x, x, x, **given)[0]

    q, k = project(attention, x)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(hidden, -math.inf)
    expected, heads = entropy(scores.softmax(-1), (~hidden).sum(-1))
    row = layer(measured(Forward(forward, attention=attention), x), "attention")
    assert row.entropy == pytest.approx(expected, rel=1e-4)
    assert row.sharp == sum(h < 0.05 for h in heads) / 2


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float", "grouped", "scale"])
@pytest.mark.parametrize("written", ["fused", "by hand"])
def test_the_entropy_of_dot_product_attention_equals_a_calculation_by_hand(kind, written):
    heads = 2 if kind == "grouped" else 4
    q, k, v = torch.randn(4, 4, 6, 8), torch.randn(4, heads, 7, 8), torch.randn(4, heads, 7, 8)
    hidden, given, scale = torch.zeros(6, 7, dtype=torch.bool), {}, 8**-0.5
    if kind == "causal":
        hidden, given = torch.triu(torch.ones(6, 7, dtype=torch.bool), 1), {"is_causal": True}
    if kind in ("bool", "float"):
        hidden = torch.rand(4, 1, 6, 7) > 0.6
        hidden[..., 0] = False
        given = {"attn_mask": ~hidden if kind == "bool" else hidden * -1e9}
    if kind == "grouped":
        given = {"enable_gqa": True}
    if kind == "scale":
        given, scale = {"scale": 3.0}, 3.0
    scores = q @ k.repeat_interleave(4 // heads, 1).transpose(-1, -2) * scale
    scores = scores.masked_fill(hidden, -math.inf)
    expected, by_head = entropy(scores.softmax(-1), (~hidden).sum(-1).expand(4, 4, 6))

    def fused(s, q, k, v):
        return functional.scaled_dot_product_attention(q * s.one, k, v, **given)

    def by_hand(s, q, k, v):
        many = (t.repeat_interleave(4 // heads, 1) for t in (k, v))
        k, v = many
        scores = (s.one * q @ k.transpose(-1, -2) * scale).masked_fill(hidden, -1e4)
        return scores.softmax(dim=-1) @ v

    model = Forward(fused if written == "fused" else by_hand, one=torch.ones(()))
    (row,) = [r for r in measured(model, (q, k, v)).layers if r.entropy is not None]
    assert row.role == "attention"
    assert row.entropy == pytest.approx(expected, rel=1e-4)
    assert row.sharp == sum(h < 0.05 for h in by_head) / 4


def steps_before_samples(rnn):
    def forward(net, x):
        outputs, state = net.rnn(x.transpose(0, 1))
        return outputs.transpose(0, 1), state

    return Forward(forward, rnn=rnn)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    "make",
    [
        *[partial(kind, 6, 5, batch_first=True) for kind in (nn.RNN, nn.LSTM, nn.GRU)],
        lambda: steps_before_samples(nn.LSTM(6, 5)),
        lambda: nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True),
        lambda: nn.GRU(6, 5, 3, batch_first=True, bias=False),
        lambda: nn.LSTM(6, 5, proj_size=3, batch_first=True),
        lambda: sc.RNN(6, 5, batch_first=True),
        lambda: sc.recurrent.CoreLSTM(6, 5, batch_first=True),
        lambda: sc.recurrent.CoreGRU(6, 5, 2, batch_first=True),
    ],
)
@pytest.mark.parametrize("read", [lambda h: h.sum(1), lambda h: h[:, -1]], ids=["all steps", "last step"])
def test_time_steps_and_outputs_of_recurrent_layers_have_the_gradients_of_autograd(make, read):
    rnn, x = make(), torch.randn(32, 9, 6, requires_grad=True)
    outputs = rnn(x)[0]
    loss = functional.cross_entropy(read(outputs), Y)
    of_outputs, of_inputs = torch.autograd.grad(loss, (outputs, x))
    m = measured(Forward(lambda s, x: read(s.rnn(x)[0]), rnn=rnn), x.detach(), Y, functional.cross_entropy)
    assert m.layers[0].steps == pytest.approx([size(g) for g in of_inputs.unbind(1)], rel=1e-4)
    assert m.layers[0].gradient == pytest.approx(size(of_outputs), rel=1e-4)


def test_time_steps_of_a_packed_sequence_count_the_samples_that_are_long_enough():
    lengths = torch.tensor([5, 2, 4, 1] * 8)

    def forward(s, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return s.rnn(packed)[1][0][0]

    model = Forward(forward, rnn=nn.LSTM(6, 3, batch_first=True))
    x = torch.randn(32, 5, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), Y), x)
    expected = [size(g, int((lengths > t).sum())) for t, g in enumerate(gradient.unbind(1))]
    m = measured(model, x.detach(), Y, functional.cross_entropy)
    assert m.layers[0].steps == pytest.approx(expected, rel=1e-4)


def test_time_steps_of_a_long_sequence_are_thinned_evenly_with_both_ends():
    model = Forward(lambda s, x: s.rnn(x)[0][:, -1], rnn=nn.RNN(6, 3, batch_first=True))
    x = torch.randn(32, 300, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), Y), x)
    expected = [size(g) for g in gradient.unbind(1)]
    found = measured(model, x.detach(), Y, functional.cross_entropy).layers[0].steps
    assert len(found) == STEPS
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-30)
    assert found[-1] == pytest.approx(expected[-1], rel=1e-4)
    assert found == pytest.approx([expected[round(i * 299 / 63)] for i in range(64)], rel=1e-4, abs=1e-30)


def test_weights_with_equal_rows_are_reported_as_alike():
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)])
    with torch.no_grad():
        model[0].weight.fill_(0.3)
        model[1].weight.copy_(torch.arange(4.0).expand(4, 4))
        model[2].weight.zero_()
        model[3].weight[1] = model[3].weight[0]
        model[4].weight.copy_(torch.arange(4.0)[:, None].expand(4, 4))
        model[5].weight.copy_(torch.arange(4.0).expand(4, 4))
        model[5].weight[3, 3] += 1e-6
    alike = [w.name for w in measured(model, torch.randn(8, 4)).weights if w.alike]
    assert alike == ["0.weight", "1.weight"]


def test_used_unused_detached_and_frozen_parameters_differ():
    def forward(s, x):
        return s.fc(x) + s.aside(x).detach() + s.frozen(x)

    model = Forward(forward, fc=nn.Linear(6, 3), aside=nn.Linear(6, 3), frozen=nn.Linear(6, 3), never=nn.Linear(6, 3))
    model.frozen.requires_grad_(False)
    found = {w.name: w for w in measured(model, X, Y, functional.cross_entropy).weights}

    def told(name):
        return found[name].trains, found[name].used, found[name].gradient is not None

    assert told("fc.weight") == told("fc.bias") == (True, True, True)
    assert told("aside.weight") == told("aside.bias") == (True, True, False)
    assert told("frozen.weight") == told("frozen.bias") == (False, True, False)
    assert told("never.weight") == told("never.bias") == (True, False, False)


@pytest.mark.parametrize(("frozen", "without"), [(0, [0, 1]), (2, [])])
def test_a_frozen_first_layer_has_no_gradient_and_a_frozen_middle_layer_has_one(frozen, without):
    model = mlp(nn.Tanh, depth=3)
    model[frozen].requires_grad_(False)
    m = measured(model, X, Y, functional.cross_entropy)
    assert [i for i, row in enumerate(m.layers) if row.gradient is None] == without


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_may_be_a_scalar_or_a_tensor_with_one_number(shape):
    model = nn.Linear(6, 3)
    m = measured(model, X, Y, lambda out, y: functional.cross_entropy(out, y).reshape(shape))
    scalar = measured(model, X, Y, functional.cross_entropy)
    assert (m.loss, m.layers) == (scalar.loss, scalar.layers)


def test_a_loss_that_requires_no_gradient_leaves_all_gradients_unknown():
    m = measured(mlp(nn.Tanh), X, Y, lambda out, y: functional.cross_entropy(out.detach(), y))
    assert m.loss > 0
    assert all(row.gradient is None for row in m.layers)
    assert all(w.gradient is None for w in m.weights)
    assert all(row.rms > 0 for row in m.layers)


def test_without_a_loss_function_the_gradient_is_by_random_signs():
    model = mlp(nn.Tanh)
    m = measured(model, X)
    assert (m.loss, m.loss_function, m.loss_reads) == (None, None, None)
    assert m.layers[-1].gradient == pytest.approx(math.sqrt(3))
    assert measured(model, X).layers == m.layers


def test_a_loss_that_runs_the_model_again_joins_both_passes():
    model = mlp(nn.Tanh)
    edge = torch.randn(8, 6)

    def loss_fn(out, y):
        inside = functional.cross_entropy(out, y)
        return inside + model(edge).square().mean() + functional.mse_loss(out, torch.zeros_like(out))

    m = measured(model, X, Y, loss_fn)
    assert names(m) == ["0", "1", "2", "3", "4"]
    assert m.samples == 40
    first, second = model[0](X), model[0](edge)
    inside, outside = model[1:](first), model[1:](second)
    loss = functional.cross_entropy(inside, Y) + inside.square().mean() + outside.square().mean()
    gradients = torch.autograd.grad(loss, (first, second))
    assert layer(m, "0").gradient == pytest.approx(size(torch.cat(gradients)), rel=1e-5)
    assert (m.loss_function, m.loss_reads) == ("mse_loss", 4)


def everything():
    """A model of parts that draw random numbers and keep statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm1d(6, affine=False),
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        nn.BatchNorm1d(8, momentum=None),
        nn.RReLU(),
        nn.Linear(8, 3),
    )
    model[2].eval()
    model[8].weight.requires_grad_(False)
    model[1].weight.grad = torch.ones_like(model[1].weight)
    return model


def test_diagnose_changes_nothing():
    model = everything()
    versions = [p._version for p in model.parameters()]
    x = X.clone().requires_grad_()
    x.grad = torch.full_like(x, 2.0)
    with untouched(model):
        sc.diagnose(model, x, Y, nn.CrossEntropyLoss())
    assert [p._version for p in model.parameters()] == versions
    assert torch.equal(x.grad, torch.full_like(x, 2.0))
    assert x.requires_grad


@pytest.mark.parametrize("where", ["forward", "interrupt", "loss"])
def test_everything_is_detached_and_restored_after_an_error(where):
    def forward(s, x):
        x = s.net[:9](x)
        if where == "forward":
            raise ArithmeticError("broken")
        if where == "interrupt":
            raise KeyboardInterrupt
        return x

    def loss_fn(out, y):
        if where == "loss":
            raise ArithmeticError("broken")
        return functional.cross_entropy(out, y)

    model = Forward(forward, net=everything())
    with untouched(model), pytest.raises((ArithmeticError, KeyboardInterrupt)):
        sc.diagnose(model, X, Y, loss_fn)
    assert not global_hooks()
    assert len(measured(mlp(nn.Tanh), X).layers) == 5


def test_hooks_that_step_an_optimizer_in_the_backward_pass_do_not_fire():
    model = mlp(nn.Tanh)
    fired = []
    for parameter in model.parameters():
        optimizer = torch.optim.SGD([parameter], lr=1.0)

        def step(p, optimizer=optimizer):
            fired.append(p)
            optimizer.step()

        parameter.register_post_accumulate_grad_hook(step)
    with untouched(model):
        m = measured(model, X, Y, functional.cross_entropy)
    assert not fired
    assert all(w.gradient > 0 for w in m.weights)
    functional.cross_entropy(model(X), Y).backward()
    assert len(fired) == 6


def test_the_graph_behind_the_inputs_and_targets_is_left_alone():
    encoder, teacher, head = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3)
    codes, aims = encoder(X), teacher(X)
    m = measured(head, codes, aims, functional.mse_loss)
    assert m.layers[0].gradient > 0
    assert all(p.grad is None for net in (encoder, teacher, head) for p in net.parameters())
    functional.mse_loss(head(codes), aims).backward()  # the graph is still there


def test_a_thousand_layers_are_measured():
    layers = [part for _ in range(1000) for part in (nn.Linear(4, 4), nn.Tanh())]
    for part in layers[::2]:
        nn.init.orthogonal_(part.weight)
    m = measured(nn.Sequential(*layers), torch.randn(8, 4), 0, lambda out, _: out.sum())
    assert len(m.layers) == 2000
    assert m.layers[-1].sources == (1998,)
    assert all(row.gradient is not None for row in m.layers)
    assert m.layers[-1].gradient == pytest.approx(2.0)


def checkpointed(reentrant):
    def forward(s, x):
        x = s.stem(x)
        x = checkpoint(s.block, x, use_reentrant=reentrant)
        return s.head(x)

    return Forward(forward, stem=nn.Linear(6, 6), block=mlp(nn.Tanh, outputs=6), head=nn.Linear(6, 3))


def test_non_reentrant_checkpoints_change_no_number():
    model = checkpointed(False)
    plain = Forward(lambda s, x: s.head(s.block(s.stem(x))), stem=model.stem, block=model.block, head=model.head)
    one, other = (measured(net, X, Y, functional.cross_entropy) for net in (model, plain))
    assert one.layers == other.layers
    assert one.weights == other.weights
    assert one.notes == ()


def test_layers_in_reentrant_checkpoints_are_reported_as_not_measured():
    m = measured(checkpointed(True), X, Y, functional.cross_entropy)
    assert [row.gradient is None for row in m.layers] == [False, *[True] * 5, False]
    assert all(w.gradient > 0 for w in m.weights)
    assert "block.0" in m.notes[0]
    assert "use_reentrant=False" in m.notes[0]


@pytest.mark.parametrize(("magnitude", "scale"), [(1e30, 1e-30), (1e-30, 1e-5), (1e-3, 1e30)])
def test_huge_and_tiny_numbers_neither_overflow_nor_vanish(magnitude, scale):
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    plain = measured(model, X, 0, lambda out, _: out.sum())
    m = measured(model, X * magnitude, 0, lambda out, _: out.sum() * scale)
    for row, same_row in zip(m.layers, plain.layers, strict=True):
        assert row.gradient == pytest.approx(scale * same_row.gradient, rel=1e-5, abs=0)
        assert row.rms == pytest.approx(magnitude * same_row.rms, rel=1e-5, abs=0)
        assert row.spread == pytest.approx(same_row.spread, rel=1e-5, abs=0)
        assert row.high == pytest.approx(magnitude * same_row.high, rel=1e-5, abs=0)
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
        assert row.largest == (None if dtype == torch.float64 else float(y.abs().max()))
