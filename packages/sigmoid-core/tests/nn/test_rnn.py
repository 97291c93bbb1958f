"""RNN: equal to a loop of centered cores and to nn.RNN with folded weights; prepared, its gradient lasts in time."""

import math

import pytest
import torch
from torch import nn

from sigmoidcore import RNN, Equalizer, SigmoidCore, gradient_profile, prepare

STEPS, BATCH, FEATURES, HIDDEN = 7, 5, 3, 6


class Classifier(nn.Module):
    """The last output of a recurrent layer through a Linear head."""

    def __init__(self, features=FEATURES, hidden=HIDDEN, classes=4):
        super().__init__()
        self.rnn = RNN(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def layer(batch_first=False, dtype=torch.float64):
    """A layer with nothing at its default."""
    rnn = RNN(FEATURES, HIDDEN, batch_first=batch_first).to(dtype)
    with torch.no_grad():
        rnn.weight_hh.copy_(torch.randn(HIDDEN, HIDDEN))
        rnn.bias.copy_(torch.randn(HIDDEN))
        rnn.shift.copy_(torch.randn(HIDDEN))
        rnn.slope.fill_(2.7)
    return rnn


def sequences(batch_first=False, dtype=torch.float64):
    shape = (BATCH, STEPS, FEATURES) if batch_first else (STEPS, BATCH, FEATURES)
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def loop(rnn, inputs, state=None):
    """The definition: y_t = core(W_ih u_t + W_hh y_{t-1} + b)."""
    core = SigmoidCore(HIDDEN, centered=True).to(inputs.dtype)
    core.set_slope(rnn.slope.expand(HIDDEN))
    core.set_shift(rnn.shift)
    steps = inputs.unbind(1 if rnn.batch_first else 0)
    y = inputs.new_zeros(BATCH, HIDDEN) if state is None else state[0]
    outputs = []
    for u in steps:
        y = core(u @ rnn.weight_ih.T + y @ rnn.weight_hh.T + rnn.bias)
        outputs.append(y)
    return torch.stack(outputs, 1 if rnn.batch_first else 0), y.unsqueeze(0)


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_values_and_gradients_are_those_of_a_loop_of_centered_cores(batch_first, with_state):
    rnn, inputs = layer(batch_first), sequences(batch_first)
    state = torch.randn(1, BATCH, HIDDEN, dtype=torch.float64).mul_(0.3).requires_grad_() if with_state else None
    leaves = [inputs, *rnn.parameters(), *([state] if with_state else [])]
    results = []
    for output, last in (rnn(inputs, state), loop(rnn, inputs, state)):
        torch.manual_seed(5)
        loss = (output * torch.randn(output.shape)).sum() + (last * torch.randn(last.shape)).sum()
        results.append((output, last, *torch.autograd.grad(loss, leaves)))
    for fused, expected in zip(*results, strict=True):
        assert_close(fused, expected)
    assert float(results[0][0].detach().abs().max()) <= 0.5
    assert all(float(g.abs().max()) > 1e-3 for g in results[0][2:])


@pytest.mark.parametrize("batch_first", [False, True])
def test_step_by_step_it_computes_the_same_and_shows_every_steps_preactivations(batch_first):
    rnn, inputs = layer(batch_first), sequences(batch_first)
    state = torch.randn(1, BATCH, HIDDEN, dtype=torch.float64)
    seen = []
    unrolled = rnn.run_stepwise(inputs, state, on_step=lambda t, x: seen.append((int(t), x)))
    for a, b in zip(unrolled, rnn(inputs, state), strict=True):
        assert_close(a, b)
    assert [t for t, _ in seen] == list(range(STEPS))
    y = unrolled[0] if not batch_first else unrolled[0].transpose(0, 1)
    for t, x in seen:
        assert_close(torch.sigmoid(rnn.slope * (x - rnn.shift)) - 0.5, y[t])


def test_the_last_state_continues_the_sequence():
    rnn, inputs = layer(), sequences()
    output, last = rnn(inputs)
    first, state = rnn(inputs[:3])
    second, end = rnn(inputs[3:], state)
    assert_close(torch.cat([first, second]), output)
    assert_close(end, last)


@pytest.mark.parametrize("shape", [(STEPS, FEATURES), (STEPS, BATCH, FEATURES + 1), (2, STEPS, BATCH, FEATURES)])
@pytest.mark.parametrize(("batch_first", "order"), [(False, "[steps, batch, "), (True, "[batch, steps, ")])
def test_inputs_of_another_shape_are_an_error_that_names_the_order_and_the_shape(shape, batch_first, order):
    with pytest.raises(ValueError, match="RNN takes") as caught:
        RNN(FEATURES, HIDDEN, batch_first=batch_first)(torch.zeros(shape))
    assert f"RNN takes {order}features] with {FEATURES} features" in str(caught.value)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (-1, 3)])
def test_a_size_below_1_is_an_error(sizes):
    with pytest.raises(ValueError, match=rf"(input|hidden)_size must be at least 1, got {min(sizes)}"):
        RNN(*sizes)


def test_the_equalizer_refuses_a_model_of_recurrent_cores_only():
    model = Classifier()
    with pytest.raises(ValueError, match="recurrent cores only"):
        Equalizer(model, torch.optim.Adam(model.parameters()))


LONG = 50
"""Steps."""


@pytest.fixture
def prepared():
    model = Classifier(FEATURES, 32)
    inputs = torch.randn(100, LONG, FEATURES)
    return model, inputs, prepare(model, inputs)


def test_prepare_makes_the_gradient_keep_its_size_through_time(prepared):
    model, _, report = prepared
    assert report.after.names == tuple(f"rnn[{t}]" for t in range(LONG))
    assert report.after.spread < 10
    assert report.before.spread > 30 * report.after.spread
    unseen = gradient_profile(model, torch.randn(100, LONG, FEATURES))
    assert unseen.spread < 10


def test_prepare_makes_the_hidden_weights_orthogonal_and_remembers_the_number_of_steps(prepared):
    rnn = prepared[0].rnn
    torch.testing.assert_close(rnn.weight_hh @ rnn.weight_hh.T, torch.eye(32), rtol=0, atol=1e-5)
    gram = (rnn.weight_ih.T @ rnn.weight_ih).detach()
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(FEATURES), rtol=0, atol=1e-5)
    assert int(rnn.steps) == LONG
    assert not bool(rnn.bias.any())
    assert math.isfinite(float(rnn.slope))
    assert float(rnn.slope) >= 4  # the smallest at which a gain of 1 is possible


@pytest.mark.parametrize("saturation", [0.3, 0.5, 1.0])
def test_prepare_sets_the_saturation_level_over_time(saturation):
    model, inputs = Classifier(FEATURES, 32), torch.randn(200, LONG, FEATURES)
    report = prepare(model, inputs, saturation=saturation)
    seen = []
    with torch.no_grad():
        model.rnn.run_stepwise(inputs, on_step=lambda t, x: seen.append(x))
    z = model.rnn.slope * (torch.stack(seen) - model.rnn.shift)
    assert float(z.square().mean().sqrt()) == pytest.approx(saturation, rel=0.15)
    assert float(report.levels[0]) == pytest.approx(saturation, rel=0.15)


def test_slopes_stay_in_float32_in_half_precision_and_a_state_dict_without_them_resets_them():
    model, inputs = RNN(3, 8), torch.randn(6, 4, 3)
    prepare(model, inputs)
    slope = model.slope.clone()
    model.to(torch.bfloat16)
    assert torch.equal(model.slope, slope)
    assert model(inputs.bfloat16())[0].dtype == torch.bfloat16
    model.load_state_dict({name: p for name, p in model.named_parameters()})
    assert (model.slope.item(), model.steps.item(), bool(model.shift.any())) == (4.0, 0, False)


def test_reset_gives_memory_without_values_the_weights_of_a_new_layer():
    with torch.device("meta"):
        layer = RNN(3, 8)
    layer = layer.to_empty(device="cpu")
    torch.manual_seed(4)
    layer.reset_parameters()
    torch.manual_seed(4)
    expected = RNN(3, 8).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in layer.state_dict().items())
