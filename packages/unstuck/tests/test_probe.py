"""Gradients of the probe against autograd, and that measuring changes nothing."""

import math
from functools import partial

import pytest
import torch
from support.untouched import untouched
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from unstuck_support.hooks import global_hooks
from unstuck_support.measuring import Forward, layer, measured, mlp, module_gradients, names, size

import unstuck

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
    ],
)
@pytest.mark.parametrize("read", [lambda h: h.sum(1), lambda h: h[:, -1]], ids=["all steps", "last step"])
def test_first_steps_and_outputs_of_recurrent_layers_have_the_gradients_of_autograd(make, read):
    rnn, x = make(), torch.randn(32, 9, 6, requires_grad=True)
    outputs = rnn(x)[0]
    loss = functional.cross_entropy(read(outputs), Y)
    of_outputs, of_inputs = torch.autograd.grad(loss, (outputs, x))
    m = measured(Forward(lambda s, x: read(s.rnn(x)[0]), rnn=rnn), x.detach(), Y, functional.cross_entropy)
    sizes = [size(g) for g in of_inputs.unbind(1)]
    assert m.answers["memories"][0]["share"] == pytest.approx(sizes[0] / max(sizes), rel=1e-4)
    assert m.layers[0].gradient == pytest.approx(size(of_outputs), rel=1e-4)


def test_the_steps_of_a_packed_sequence_count_the_samples_that_are_long_enough():
    lengths = torch.tensor([5, 2, 4, 1] * 8)

    def forward(s, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return s.rnn(packed)[1][0][0]

    model = Forward(forward, rnn=nn.LSTM(6, 3, batch_first=True))
    x = torch.randn(32, 5, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), Y), x)
    expected = [size(g, int((lengths > t).sum())) for t, g in enumerate(gradient.unbind(1))]
    (found,) = measured(model, x.detach(), Y, functional.cross_entropy).answers["memories"]
    assert found["share"] == pytest.approx(expected[0] / max(expected), rel=1e-4)


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
        unstuck.diagnose(model, x, Y, nn.CrossEntropyLoss())
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
        unstuck.diagnose(model, X, Y, loss_fn)
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
