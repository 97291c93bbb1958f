"""What PyTorch users do in training, with a Monitor on it: which steps are measured, and that the numbers are right."""

import gc
import itertools
import json
import math
import threading
import weakref
from functools import partial

import pytest
import torch
from support.compiling import stance
from support.copies import COPIES
from support.measuring import Forward
from support.steps import WAYS, functional_derivatives, in_vmap, loss_of, residual, scale_grows
from torch import nn
from torch.utils.checkpoint import checkpoint

from sigmoidcore import MLP, Equalizer, Monitor
from sigmoidcore._torch.hooks import global_hooks
from sigmoidcore.diagnosis.measure.history import History
from sigmoidcore.diagnosis.monitor import PATIENCE

ROWS = 24


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3)
    )


@pytest.fixture
def batch():
    return torch.randn(ROWS, 8), torch.randint(0, 3, (ROWS,))


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def step(model, optimizer, batch):
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    optimizer.step()


def sizes(measurement):
    """Gradient sizes by layer."""
    return {layer.name: layer.gradient for layer in measurement.layers}


def gradients(measurement):
    """Gradient norms by parameter."""
    return {weight.name: weight.gradient for weight in measurement.weights}


def sizes_by_hand(model, loss_fn):
    """Gradient size at the output of every module without children, from `torch.autograd.grad`."""
    outputs = {}
    handles = [
        module.register_forward_hook(lambda *args, name=name: outputs.update({name: args[2]}))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    found = torch.autograd.grad(loss_fn(model), list(outputs.values()))
    for handle in handles:
        handle.remove()
    return {n: g.double().square().sum().div(len(g)).sqrt().item() for n, g in zip(outputs, found, strict=True)}


def gradients_by_hand(model, loss_fn):
    found = torch.autograd.grad(loss_fn(model), list(model.parameters()))
    return {n: g.double().norm().item() for (n, _), g in zip(model.named_parameters(), found, strict=True)}


def assert_right(measurement, model, loss_fn, rel=1e-5):
    """Layers and parameters have the gradients of `loss_fn(model)`."""
    assert sizes(measurement) == pytest.approx(sizes_by_hand(model, loss_fn), rel=rel)
    assert gradients(measurement) == pytest.approx(gradients_by_hand(model, loss_fn), rel=rel)


def of_one_step(model, run, **options):
    """What a Monitor says of one step, whose forward and backward passes are `run(optimizer)`; weights stay."""
    optimizer = sgd(model, lr=0.0)
    with Monitor(model, every=1, **options) as monitor:
        run(optimizer)
        optimizer.step()
    model.zero_grad()
    assert len(monitor.measurements) == 1
    return monitor.measurements[0]


def attached():
    """Whether a measured step has put something into the process."""
    return bool(global_hooks()) or stance() != "default"


@pytest.fixture(autouse=True)
def _leaves_nothing():
    yield
    if attached():  # something that nobody has any more may not have been collected yet
        gc.collect()
    assert not attached()


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (100, [0])])
def test_one_step_in_every_so_many_is_measured(model, batch, every, steps):
    optimizer = sgd(model)
    with Monitor(model, every=every) as monitor:
        for _ in range(7):
            step(model, optimizer, batch)
    assert [m.step for m in monitor.measurements] == steps
    assert all(m.samples == ROWS and m.ranks == 1 for m in monitor.measurements)


def test_a_mode_around_the_forward_pass_can_be_left_before_the_loss(model, batch):
    optimizer = sgd(model)
    with Monitor(model, every=1) as monitor:
        with torch.device("meta"):
            outputs = model(batch[0])
        assert torch.empty(1).device.type == "cpu"
        loss = nn.functional.cross_entropy(outputs, batch[1])
        loss.backward()
        optimizer.step()
    assert monitor.measurements[0].loss == pytest.approx(loss.item())


def test_a_step_between_measured_ones_has_no_hooks(model, batch):
    optimizer = sgd(model)
    hooked = []
    with Monitor(model, every=3):
        for _ in range(7):
            optimizer.zero_grad()
            outputs = model(batch[0])
            hooked.append(attached())
            nn.functional.cross_entropy(outputs, batch[1]).backward()
            optimizer.step()
    assert hooked == [True, False, False, True, False, False, True]


def test_a_monitor_made_in_the_middle_of_a_step_measures_the_next_step(model, batch):
    optimizer = sgd(model)
    loss = loss_of(model, batch)
    with Monitor(model, every=5) as monitor:
        loss.backward()
        optimizer.step()
        for _ in range(6):
            step(model, optimizer, batch)
    assert [m.step for m in monitor.measurements] == [1, 5]
    assert all(math.isfinite(gradient) for gradient in sizes(monitor.measurements[0]).values())


def test_a_removed_monitor_keeps_its_measurements(model, batch):
    optimizer = sgd(model)
    monitor = Monitor(model, every=1)
    step(model, optimizer, batch)
    monitor.remove()
    monitor.remove()
    step(model, optimizer, batch)
    assert [m.step for m in monitor.measurements] == [0]


def test_a_garbage_collected_monitor_leaves_no_hooks(model):
    dropped = weakref.ref(Monitor(model, every=1))
    gc.collect()
    assert dropped() is None
    assert not attached()


def test_an_error_in_the_forward_pass_leaves_no_hooks(model, batch):
    optimizer = sgd(model)
    with Monitor(model, every=1) as monitor:
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.randn(4, 5))
        step(model, optimizer, batch)
        assert_right_before(monitor.measurements[0], model, batch)
    model[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), Monitor(model, every=1):
        model(batch[0])
    assert not attached()


def interrupt(*_):
    raise KeyboardInterrupt


def assert_right_before(measurement, model, batch):
    """Of a step of SGD with the rate 0.1 that was made: put it back, and compare."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.grad
    assert_right(measurement, model, lambda network: loss_of(network, batch))


@pytest.mark.parametrize("weight", [math.nan, 1.0])
def test_a_step_that_an_error_ends_is_kept_if_its_outputs_are_not_finite(model, batch, weight):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = Monitor(model, every=1)
    loss_of(model, batch).backward()
    optimizer.step()
    with torch.no_grad():
        model[2].weight[0, 0] = weight
    model(batch[0])
    monitor.abort()
    assert [m.step for m in monitor.measurements] == ([0, 1] if math.isnan(weight) else [0])
    rules = [finding.rule for finding in monitor.diagnosis().findings]
    assert ("SC401" in rules) is math.isnan(weight)
    assert "SC501" not in rules


def test_a_warning_comes_after_ten_steps_without_a_gradient(model, batch):
    optimizer = sgd(model)

    with Monitor(model, every=100) as monitor:
        for _ in range(PATIENCE - 1):
            in_vmap(model, batch, optimizer)
        with pytest.warns(RuntimeWarning, match="no gradient reached the model, so the Monitor measures nothing"):
            in_vmap(model, batch, optimizer)
        assert not attached()
        for _ in range(5):
            in_vmap(model, batch, optimizer)
    assert not monitor.measurements


def test_a_diagnosis_needs_parameters_and_a_measurement(model):
    with pytest.raises(ValueError, match="has no parameters"):
        Monitor(nn.ReLU())
    with pytest.raises(ValueError, match="no step was measured yet"), Monitor(model) as monitor:
        monitor.diagnosis()


def test_the_numbers_of_a_step_equal_an_independent_calculation(model, batch):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = [(torch.randn(ROWS, 8), torch.randint(0, 3, (ROWS,))) for _ in range(4)]
    with Monitor(model, every=3) as monitor:
        for k, each in enumerate(batches):
            if k == 3:
                expected = sizes_by_hand(model, lambda network: loss_of(network, batches[3]))
                of_weights = gradients_by_hand(model, lambda network: loss_of(network, batches[3]))
                outputs = dict(zip("0123456", _outputs(model, batches[3][0]), strict=True))
                before = {n: p.detach().clone() for n, p in model.named_parameters()}
            step(model, optimizer, each)
    measured = monitor.measurements[1]
    assert measured.step == 3
    assert sizes(measured) == pytest.approx(expected, rel=1e-5)
    assert gradients(measured) == pytest.approx(of_weights, rel=1e-5)
    updates = {n: ((p - before[n]).norm() / before[n].norm()).item() for n, p in model.named_parameters()}
    assert {w.name: w.update for w in measured.weights} == pytest.approx(updates, rel=1e-4)
    assert {w.name: w.size for w in measured.weights} == pytest.approx({n: b.norm().item() for n, b in before.items()})
    layers = {layer.name: layer for layer in measured.layers}
    for name, y in outputs.items():
        assert layers[name].rms == pytest.approx(y.square().mean().sqrt().item(), rel=1e-5)
        spread = y.var(0, correction=0).sum().sqrt() / y.square().mean(0).sum().sqrt()
        assert layers[name].spread == pytest.approx(spread.item(), rel=1e-4)
    y = outputs["3"]
    assert layers["3"].relative_slope == pytest.approx((4 * y * (1 - y)).mean().item(), rel=1e-5)
    assert layers["1"].dead == (outputs["1"] <= 0).all(0).double().mean().item()


@torch.no_grad()
def _outputs(model, x):
    for layer in model:
        x = layer(x)
        yield x


@pytest.mark.parametrize("way", WAYS)
def test_the_gradients_of_a_step_are_those_of_its_loss_whatever_is_done_besides(model, batch, way):
    measured = of_one_step(model, lambda optimizer: WAYS[way](model, batch, optimizer))
    assert measured.samples == ROWS
    assert_right(measured, model, lambda network: loss_of(network, batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_under_autocast_are_near_those_of_float32(model, batch, dtype):
    def loss(network):
        with torch.autocast("cpu", dtype=dtype):
            return loss_of(network, batch)

    measured = of_one_step(model, lambda _: loss(model).backward())
    assert {layer.dtype for layer in measured.layers} == {str(dtype).removeprefix("torch.")}
    assert_right(measured, model, loss, rel=1e-3)
    assert_right(measured, model, lambda network: loss_of(network, batch), rel=0.1)


@pytest.mark.parametrize("unscale", [False, True])
def test_gradients_are_unscaled_while_the_scale_of_the_scaler_grows(model, batch, unscale):
    optimizer, scaler = sgd(model, lr=0.0), torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    with Monitor(model, every=1, scaler=scaler) as monitor:
        scale_grows(model, batch, optimizer, scaler, unscale)
    assert len(monitor.measurements) == 4
    for measured in monitor.measurements:
        assert_right(measured, model, lambda network: loss_of(network, batch))


def scaled(model, batch, factors, *, every=1, fused=False, given=True, zero_first=True):
    """Steps under a scaler, whose losses are multiplied by the factors; returns the monitor."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10**6)
    with Monitor(model, every=every, scaler=scaler if given else None) as monitor:
        for factor in factors:
            if zero_first:
                optimizer.zero_grad()
            loss = scaler.scale(loss_of(model, batch) * factor)
            if not zero_first:
                optimizer.zero_grad()
            loss.backward()
            scaler.step(optimizer)
            scaler.update()
    assert "update" not in vars(scaler)
    return monitor


SCALED = pytest.mark.parametrize(
    ("fused", "given", "zero_first"), [(False, True, True), (True, False, False), (True, True, True)]
)


@SCALED
def test_steps_skipped_by_the_scaler_do_not_count(model, batch, fused, given, zero_first):
    inf, nan = math.inf, math.nan
    expected = sizes_by_hand(model, lambda network: loss_of(network, batch))
    monitor = scaled(model, batch, [inf, nan, 1.0, nan, 1.0], fused=fused, given=given, zero_first=zero_first)
    assert [m.step for m in monitor.measurements] == [0, 1]
    factor = 1 if given else 256
    assert sizes(monitor.measurements[0]) == pytest.approx({n: factor * g for n, g in expected.items()}, rel=1e-5)
    assert monitor.measurements[0].samples == ROWS
    assert all(w.update > 0 for w in monitor.measurements[0].weights)


@SCALED
def test_a_network_without_finite_gradients_is_measured_after_ten_skipped_steps(model, batch, fused, given, zero_first):
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    monitor = scaled(model, batch, [1.0] * 20, fused=fused, given=given, zero_first=zero_first)
    assert [m.step for m in monitor.measurements] == [0]
    measured = monitor.measurements[0]
    assert any("the gradients of 10 measured steps in a row" in note for note in measured.notes)
    assert measured.samples == ROWS
    assert [layer.nonfinite > 0 for layer in measured.layers] == [False, False, True, True, True, True, True]
    assert measured.weights[2].nonfinite == 1
    assert all(w.nonfinite_gradient == math.prod(w.shape) for w in measured.weights)
    assert all(w.update is None for w in measured.weights)


def test_a_network_that_becomes_nan_between_two_measured_steps_is_measured(model, batch):
    monitor = scaled(model, batch, [1.0] * 5 + [math.nan] * 15, every=100)
    assert [m.step for m in monitor.measurements] == [0, 5]
    assert any("the gradients of 10 measured steps in a row" in note for note in monitor.measurements[1].notes)
    assert all(w.nonfinite_gradient > 0 for w in monitor.measurements[1].weights)


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_a_watched_scaler_is_an_ordinary_scaler(model, copied):
    scaler = torch.amp.GradScaler("cpu")
    with Monitor(model, scaler=scaler), Monitor(model, scaler=scaler):
        other = copied(scaler)
        state = scaler.state_dict()
    assert other.update.__func__ is torch.amp.GradScaler.update
    assert other.update.__self__ is other
    assert other.state_dict() == state
    assert "update" not in vars(scaler)


def micro_batches(batch):
    return [(batch[0][rows], batch[1][rows]) for rows in torch.arange(ROWS).split(8)]


@pytest.mark.parametrize("zero", ["before", "between", "after", "zeros"])
def test_micro_batches_have_the_numbers_of_the_whole_batch(model, batch, zero):
    optimizer = sgd(model, lr=0.0)
    parts = micro_batches(batch)
    with Monitor(model, every=1) as monitor:
        for _ in range(3):
            if zero in ("before", "zeros"):
                optimizer.zero_grad(set_to_none=zero == "before")
            for k, part in enumerate(parts):
                loss = loss_of(model, part) / len(parts)
                if zero == "between" and k == 0:
                    optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if zero == "after":
                optimizer.zero_grad()
    assert len(monitor.measurements) == 3
    for measured in monitor.measurements:
        assert measured.samples == ROWS
        assert_right(measured, model, lambda network: loss_of(network, batch))
        joined = of_one_step(model, lambda _: loss_of(model, batch).backward())
        for a, b in zip(measured.layers, joined.layers, strict=True):
            assert a.rms == pytest.approx(b.rms, rel=1e-4)
            if a.neurons is not None:
                assert (a.rows, a.dead, a.saturated) == (b.rows, b.dead, b.saturated)
                assert a.relative_slope == pytest.approx(b.relative_slope, rel=1e-5)


def test_derivatives_by_the_inputs_do_not_count_as_gradients_of_the_loss(batch):
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 1, bias=False))
    measured = of_one_step(model, lambda _: residual(model, batch[0]).backward())
    assert measured.samples == ROWS
    assert_right(measured, model, lambda network: residual(network, batch[0]))


def test_a_monitor_does_not_change_derivatives_by_torch_func(model, batch):
    without = functional_derivatives(model, batch[0])
    with Monitor(model):
        assert torch.equal(functional_derivatives(model, batch[0]), without)


def test_two_networks_that_train_against_each_other_have_a_monitor_each():
    generator, critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6)), nn.Linear(6, 1)
    of_generator, of_critic = sgd(generator, 0.0), sgd(critic, 0.0)
    noise, real = torch.randn(10, 4), torch.randn(10, 6)

    def critic_loss():
        return critic(generator(noise).detach()).mean() - critic(real).square().mean()

    def generator_loss():
        return -critic(generator(noise)).mean()

    with Monitor(generator, every=1) as first, Monitor(critic, every=1) as second:
        for _ in range(4):
            of_critic.zero_grad()
            critic_loss().backward()
            of_critic.step()
            of_generator.zero_grad()
            generator_loss().backward()  # goes through the critic, too
            of_generator.step()
    assert [m.step for m in first.measurements] == [m.step for m in second.measurements] == [0, 1, 2, 3]
    for measured in first.measurements:
        assert measured.samples == 10
        assert_right(measured, generator, lambda _: generator_loss())
    expected = gradients_by_hand(critic, lambda _: critic_loss())
    for measured in second.measurements:
        assert measured.samples == 20
        assert gradients(measured) == pytest.approx(expected, rel=1e-5)


def test_a_step_of_several_optimizers_ends_with_the_last_of_them(model, batch):
    matrices = torch.optim.SGD([p for p in model.parameters() if p.dim() == 2], lr=0.1)
    vectors = torch.optim.SGD([p for p in model.parameters() if p.dim() == 1], lr=0.2)
    with Monitor(model, every=2) as monitor:
        for _ in range(3):
            matrices.zero_grad()
            vectors.zero_grad()
            loss_of(model, batch).backward()
            matrices.step()
            vectors.step()
    assert [m.step for m in monitor.measurements] == [0, 2]
    for measured in monitor.measurements:
        for w in measured.weights:
            assert w.update == pytest.approx((0.1 if len(w.shape) == 2 else 0.2) * w.gradient / w.size, rel=1e-4)


def test_a_step_is_measured_although_no_optimizer_moves_some_parameters(model, batch):
    optimizer = torch.optim.SGD(model[2:].parameters(), lr=0.1)
    with Monitor(model, every=2) as monitor:
        for k in range(4):
            step(model, optimizer, batch)
            model.zero_grad()
            assert [m.step for m in monitor.measurements] == [0, 2][: k // 2 + 1]
    for measured in monitor.measurements:
        assert [w.update is None for w in measured.weights] == [True, True, *[False] * 6]
        assert all(w.gradient > 0 for w in measured.weights)


def test_the_optimizer_of_a_second_phase_is_followed(model, batch):
    first, second = sgd(model, 0.0), sgd(model, 0.0)  # the first one stays alive
    with Monitor(model, every=2) as monitor:
        for optimizer in (first, first, first, second, second, second, second):
            step(model, optimizer, batch)
    assert len(monitor.measurements) >= 3
    assert_right(monitor.measurements[-1], model, lambda network: loss_of(network, batch))


def test_optimizers_that_step_in_the_backward_pass_make_one_step(model, batch):
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def in_backward(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    expected = gradients_by_hand(model, lambda network: loss_of(network, batch))
    of_layers = sizes_by_hand(model, lambda network: loss_of(network, batch))
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(in_backward)
    with Monitor(model, every=2) as monitor:
        for _ in range(4):
            loss_of(model, batch).backward()
    assert [m.step for m in monitor.measurements] == [0, 2]
    measured = monitor.measurements[0]
    assert gradients(measured) == pytest.approx(expected, rel=1e-5)
    assert sizes(measured) == pytest.approx(of_layers, rel=1e-5)
    for w in measured.weights:
        assert w.update == pytest.approx(0.1 * w.gradient / w.size, rel=1e-4)


def test_a_closure_is_measured_by_its_last_evaluation(model, batch):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-2, max_iter=15, tolerance_change=0.0, tolerance_grad=0.0)
    last, evaluations = {}, []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        last.update({n: p.grad.norm().item() for n, p in model.named_parameters()})
        evaluations.append(1)
        return loss

    with Monitor(model, every=1) as monitor:
        for _ in range(3):
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            optimizer.step(closure)
            measured = monitor.measurements[-1]
            assert measured.samples == ROWS
            assert gradients(measured) == pytest.approx(last, rel=1e-5)
            moved = {n: ((p - before[n]).norm() / before[n].norm()).item() for n, p in model.named_parameters()}
            assert {w.name: w.update for w in measured.weights} == pytest.approx(moved, rel=1e-3)
    assert len(evaluations) > 3 * PATIENCE
    assert [m.step for m in monitor.measurements] == [0, 1, 2]
    assert [m.discarded for m in monitor.measurements] == [0, 0, 0]
    assert not any(m.notes for m in monitor.measurements)


def test_a_measured_step_does_not_change_the_gradients_of_a_selective_checkpoint(batch):
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    def policy(_, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE

    def attends(net, x):
        h = net.project(x).reshape(4, 6, 8).relu()
        h = nn.functional.scaled_dot_product_attention(h, h, h)
        return (h @ h.mT @ h).sigmoid().reshape(ROWS, 8)

    def forward(net, x):
        contexts = partial(create_selective_checkpoint_contexts, policy)
        return net.out(checkpoint(attends, net, x, use_reentrant=False, context_fn=contexts))

    model = Forward(forward, project=nn.Linear(8, 8), out=nn.Linear(8, 3))
    loss_of(model, batch).backward()
    expected = {n: p.grad.norm().item() for n, p in model.named_parameters()}
    model.zero_grad()
    measured = of_one_step(model, lambda _: loss_of(model, batch).backward())
    assert gradients(measured) == pytest.approx(expected, rel=1e-6)


def test_a_recurrent_layer_in_a_checkpoint_is_measured():
    model = Forward(
        lambda net, x: net.out(checkpoint(lambda x: net.rnn(x)[0], x, use_reentrant=False)[:, -1]),
        rnn=nn.LSTM(5, 7, batch_first=True),
        out=nn.Linear(7, 2),
    )
    x = torch.randn(6, 4, 5)
    measured = of_one_step(model, lambda _: model(x).square().mean().backward())
    assert gradients(measured) == pytest.approx(gradients_by_hand(model, lambda m: m(x).square().mean()), rel=1e-5)


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_the_model_is_not_measured(model, batch, copied):
    optimizer = sgd(model, lr=0.0)
    with Monitor(model, every=1) as monitor:
        loss = loss_of(model, batch)
        other = copied(model)
        assert torch.equal(other(batch[0]), model(batch[0]))
        loss_of(other, batch).mul(math.nan).backward()
        loss.backward()
        optimizer.step()
    assert_right(monitor.measurements[0], model, lambda network: loss_of(network, batch))


def test_a_model_that_is_wrapped_later_keeps_its_names(model, batch):
    def wrapped(module):
        return Forward(lambda net, x: net.module(x), module=module)

    optimizer = sgd(model, lr=0.0)
    with Monitor(model, every=1) as monitor:
        step(wrapped(model), optimizer, batch)
        model[2] = wrapped(model[2])  # as LoRA does
        step(model, optimizer, batch)
    assert [layer.name for layer in monitor.measurements[0].layers] == list("0123456")
    assert [layer.name for layer in monitor.measurements[1].layers] == ["0", "1", "2.module", "3", "4", "5", "6"]
    assert [w.name for w in monitor.measurements[1].weights][2] == "2.module.weight"
    assert_right(monitor.measurements[1], model, lambda network: loss_of(network, batch))


def test_two_monitors_and_an_equalizer_measure_the_same_gradients(batch):
    model = MLP(8, 16, 5, 3)
    optimizer = sgd(model, lr=0.0)
    with (
        Monitor(model, every=1) as first,
        Equalizer(model, optimizer, every=1, tolerance=1e9) as equalizer,
        Monitor(model, every=2) as second,
    ):
        for _ in range(3):
            step(model, optimizer, batch)
    assert [m.step for m in first.measurements] == [0, 1, 2]
    assert [m.step for m in second.measurements] == [0, 2]
    assert len(equalizer.history) == 3
    assert sizes(first.measurements[2]) == sizes(second.measurements[1])
    alone = of_one_step(model, lambda _: loss_of(model, batch).backward())
    assert sizes(first.measurements[2]) == pytest.approx(sizes(alone), rel=1e-5)
    cores = [layer.gradient for layer in alone.layers if layer.role == "weights"][:5]
    assert [math.exp(x) for x in equalizer.history[2].log_sizes] == pytest.approx(cores, rel=1e-5)


def test_trainings_in_several_threads_have_their_own_monitors():
    failures = []

    def train(seed):
        generator = torch.Generator().manual_seed(seed)
        network = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
        optimizer = sgd(network)
        try:
            for _ in range(8):
                with Monitor(network, every=2) as monitor:
                    for _ in range(3):
                        step(network, optimizer, (torch.randn(4, 8, generator=generator), torch.zeros(4).long()))
                assert [m.step for m in monitor.measurements] == [0, 2]
                assert all(weight.gradient is not None for weight in monitor.measurements[-1].weights)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_monitor_does_not_change_the_training(model, batch):
    def train(watched):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(inplace=True), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(network.parameters())
        monitor = Monitor(network, every=2) if watched else None
        for _ in range(9):
            step(network, optimizer, batch)
        if monitor is not None:
            monitor.remove()
            assert len(monitor.measurements) == 5
        return network.state_dict()

    for name, value in train(False).items():
        assert torch.equal(value, train(True)[name]), name


@pytest.mark.parametrize("keep", [4, 7])
def test_a_history_keeps_evenly_distant_measurements_and_the_latest(keep):
    thinned = History(keep)
    for given in range(1000):
        thinned.add(given)
        assert len(thinned.measurements) <= keep
        assert thinned.measurements[0] == 0
        assert thinned.measurements[-1] == given
        distances = {b - a for a, b in itertools.pairwise(thinned.measurements[:-1])}
        assert len(distances) <= 1
        assert len(thinned.measurements) >= min(given + 1, keep // 2 + 1)


def test_a_monitor_continues_from_its_state(model, batch, tmp_path):
    optimizer = sgd(model)
    with Monitor(model, every=3, keep=4) as monitor:
        for _ in range(20):
            step(model, optimizer, batch)
        torch.save(monitor.state_dict(), tmp_path / "monitor.pt")
    state = torch.load(tmp_path / "monitor.pt", weights_only=True)
    assert json.loads(json.dumps(state)) == state
    with Monitor(model, every=3, keep=4) as other:
        other.load_state_dict(state)
        assert not attached()  # step 20 is not measured
        assert [m.step for m in other.measurements] == [m.step for m in monitor.measurements]
        assert sizes(other.measurements[-1]) == pytest.approx(sizes(monitor.measurements[-1]), rel=1e-5)
        for _ in range(20):
            step(model, optimizer, batch)
    with Monitor(model, every=3, keep=4) as whole:
        for _ in range(40):
            step(model, optimizer, batch)
    assert [m.step for m in other.measurements] == [m.step for m in whole.measurements]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"step": -1, "measurements": {"added": 0, "stride": 1, "extra": False, "kept": []}},
        {"step": 1, "measurements": None},
        {"step": 1, "measurements": {"added": 0, "stride": 0, "extra": False, "kept": []}},
        {"step": 1, "measurements": {"added": 0, "stride": 1, "extra": False, "kept": [{"layers": 3}]}},
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(model, batch, state):
    with Monitor(model, every=3) as monitor:
        step(model, sgd(model), batch)
        before = monitor.state_dict()
        with pytest.raises(ValueError, match="this is not the state of a Monitor"):
            monitor.load_state_dict(state)
        assert monitor.state_dict() == before


def test_every_measurement_goes_to_the_sinks(model, batch):
    seen, optimizer = [], sgd(model)
    with Monitor(model, every=1, keep=4, sinks=[seen.append]) as monitor:
        for _ in range(9):
            step(model, optimizer, batch)
    assert [m.step for m in seen] == list(range(9))
    assert len(monitor.measurements) <= 4
    assert seen[-1] is monitor.measurements[-1]
