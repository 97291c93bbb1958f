"""What belongs to a step: micro-batches, several optimizers, closures, checkpoints, copies and threads."""

import math
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.copies import COPIES
from torch import nn
from torch.utils.checkpoint import checkpoint
from unstuck_support.measuring import Forward
from unstuck_support.monitored import (
    ROWS,
    assert_right,
    gradients,
    gradients_by_hand,
    of_one_step,
    sgd,
    sizes,
    sizes_by_hand,
    step,
)
from unstuck_support.steps import functional_derivatives, loss_of, residual

from unstuck import Monitor
from unstuck.measure.parameters import Parameters
from unstuck.monitor import PATIENCE

pytestmark = pytest.mark.usefixtures("leaves_nothing")


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


def test_an_optimizer_of_another_thread_may_step_while_a_step_is_measured(model, batch):
    class Slow(torch.optim.SGD):
        """While its groups are read, another optimizer makes its first step, as in another thread."""

        def __getattribute__(self, name):
            if name == "param_groups" and busy:
                other = nn.Linear(2, 2)
                others.append(sgd(other))
                monitor._before_step(others[-1])
            return super().__getattribute__(name)

    busy, others = [], []
    with Monitor(model, every=1) as monitor:
        optimizers = [Slow(model.parameters(), lr=0.1), Slow(nn.Linear(2, 2).parameters(), lr=0.1)]
        for optimizer in optimizers:
            monitor._before_step(optimizer)
        busy.append(True)
        found = monitor._of_others()
        busy.clear()
    assert found == {id(p) for group in optimizers[1].param_groups for p in group["params"]}
    assert others


class Line(nn.Module):
    """Two numbers and no layer."""

    def __init__(self):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.randn(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x * self.slope + self.offset


def test_a_model_without_layers_is_measured():
    model, x = Line(), torch.arange(1.0, 9.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    with Monitor(model, every=1) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            (model(x) - 2 * x).square().mean().backward()
            optimizer.step()
    found = monitor.diagnosis()
    assert [m.step for m in found.history] == [0, 1, 2, 3]
    assert all(m.loss > 0 and all(w.update and w.gradient for w in m.weights) for m in found.history[1:])


def test_the_loss_of_a_model_that_is_called_twice_counts_once():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, every=1) as monitor:
        x = torch.randn(32, 4)
        loss = nn.functional.mse_loss(model(x), x[:, :1]) + nn.functional.mse_loss(model(-x), x[:, 1:2])
        loss.backward()
        optimizer.step()
    assert monitor.measurements[0].loss == pytest.approx(loss.item())


def test_many_passes_without_a_backward_pass_are_not_measured(model, batch):
    """An agent that collects experience, or an evaluation with gradients: the first step after it is not measured."""
    seen = []
    with Monitor(model, every=100, sinks=[seen.append]) as monitor:
        for _ in range(100):
            model(batch[0]).argmax(1)
        hooks = [len(layer._forward_hooks) for layer in model]
        for _ in range(3):
            step(model, sgd(model), batch)
    assert set(hooks) == {0}
    assert [m.step for m in monitor.measurements] == [m.step for m in seen] == [1]


def test_collecting_before_each_step_is_measured_from_the_second_step_on(model, batch):
    with Monitor(model, every=1) as monitor:
        optimizer = sgd(model)
        for _ in range(4):
            for _ in range(40):
                kept = model(batch[0])  # as a loop does that uses it later
                kept.argmax(1)
            step(model, optimizer, batch)
    assert [m.step for m in monitor.measurements] == [1, 2, 3]


def test_a_caller_who_counts_steps_by_hand_counts_each_once(model, batch):
    with Monitor(model, every=5) as monitor:
        for _ in range(20):
            loss = loss_of(model, batch)
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            monitor.count_step()
    assert monitor.state_dict()["step"] == 20


@pytest.mark.parametrize("kind", ["a copy moves", "an embedding is scaled", "not finite"])
def test_weights_that_change_in_the_forward_pass_are_no_step(kind):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 8, max_norm=1.0 if kind == "an embedding is scaled" else None)
            self.head, self.copy = nn.Linear(8, 3), nn.Linear(8, 3).requires_grad_(False)
            if kind == "not finite":
                nn.init.constant_(self.head.bias, math.nan)

        def forward(self, tokens):
            if kind == "a copy moves":
                with torch.no_grad():
                    self.copy.weight.lerp_(self.head.weight, 0.1)
            return self.head(self.embedding(tokens).mean(1))

    model = Changing()
    optimizer = sgd(model)
    with Monitor(model, every=1) as monitor:
        for i in range(1, 33):
            nn.functional.cross_entropy(model(torch.randint(9, (16, 5))), torch.arange(16) % 3).backward()
            if i % 8 == 0:
                optimizer.step()
                optimizer.zero_grad()
    assert [m.step for m in monitor.measurements] == [0, 1, 2, 3]


def test_passes_whose_outputs_are_kept_are_measured_however_many(model, batch):
    """An episode of an agent has one loss for all."""
    with Monitor(model) as monitor:
        loss = torch.stack([model(batch[0]).square().mean() for _ in range(100)]).mean()
        loss.backward()
        sgd(model).step()
    (measurement,) = monitor.measurements
    assert measurement.samples == 100 * ROWS


@pytest.mark.parametrize("discriminator_first", [True, False])
def test_each_player_of_a_game_is_measured_with_its_own_loss(discriminator_first):
    """As in DCGAN, whose discriminator learns from the outputs of the generator before the generator does."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
    discriminator = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    players = {model: torch.optim.Adam(model.parameters(), 1e-3) for model in (generator, discriminator)}
    losses, of = {model: [] for model in players}, nn.functional.binary_cross_entropy_with_logits
    with Monitor(generator, every=1, trials=True) as one, Monitor(discriminator, every=1, trials=True) as other:
        for _ in range(3):
            fake, real, ones = generator(torch.randn(32, 4)), torch.randn(32, 8), torch.ones(32, 1)
            for model in players if not discriminator_first else reversed(players):
                players[model].zero_grad()
                if model is generator:
                    loss = of(discriminator(fake), ones)
                else:
                    loss = of(discriminator(real), ones) + of(discriminator(fake.detach()), 0 * ones)
                loss.backward()
                losses[model].append(loss.item())
                players[model].step()
    assert [m.loss for m in one.measurements] == pytest.approx(losses[generator])
    if discriminator_first:
        assert [m.loss for m in other.measurements] == pytest.approx(losses[discriminator])
    assert all(w.gradient > 0 for m in (*one.measurements, *other.measurements) for w in m.weights)


@pytest.mark.parametrize("passes", [10, 40])
def test_all_passes_of_a_step_count_although_only_the_first_are_measured(passes):
    body, head = nn.Sequential(nn.Linear(8, 4), nn.ReLU()), nn.Linear(4, 1)
    model = nn.ModuleDict({"body": body, "head": head})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def episode():
        return torch.stack([head(body(torch.randn(ROWS, 8)).tanh()).square().mean() for _ in range(passes)]).sum()

    with Monitor(model, every=1) as monitor:
        episode().backward()
        optimizer.zero_grad()
        loss = episode()
        loss.backward()
        optimizer.step()
    (measured,) = monitor.measurements
    assert (measured.samples, measured.discarded) == (passes * ROWS, passes)
    assert measured.loss == pytest.approx(loss.item(), rel=1e-5)
    assert [layer.name for layer in measured.layers] == ["body.0", "body.1", "tanh", "head"]
    assert all(layer.gradient for layer in measured.layers)


@pytest.mark.with_bugs
def test_a_bug_where_gradients_are_read_is_noted_and_the_backward_pass_ends(model, batch, monkeypatch):
    def read_gradients(parameters):
        raise RuntimeError("odd")

    monkeypatch.setattr(Parameters, "read_gradients", read_gradients)
    with Monitor(model, every=1) as monitor:
        loss_of(model, batch).backward()
        sgd(model).step()
    assert all(p.grad is not None for p in model.parameters())
    assert "a bug in unstuck" in str(monitor.diagnosis(seconds=0))


@pytest.mark.parametrize("passes", [12, 40])
def test_a_state_without_a_dimension_for_the_batch_is_one_sample(passes):
    """As in an agent that reads `torch.tensor(state)`."""

    def diagnosis_of(shape):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        optimizer, odd = torch.optim.SGD(model.parameters(), lr=0.01), torch.randn(8).reshape(shape)
        with Monitor(model, every=1, trials=True) as monitor:
            for _ in range(3):
                actions = [torch.softmax(model(torch.randn(8).reshape(shape) - odd), -1).max() for _ in range(passes)]
                torch.stack(actions).log().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        return monitor.diagnosis()

    single, batched = diagnosis_of([8]), diagnosis_of([1, 8])
    assert (single.findings, single.gaps) == (batched.findings, batched.gaps)
    assert single.measurement.samples == passes
    for one, other in zip(single.layers, batched.layers, strict=True):
        assert one == replace(other, shape=one.shape, softmax_dim=one.softmax_dim)


def test_of_very_many_passes_before_a_loss_the_later_ones_are_not_recorded():
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, every=1, trials=True) as monitor:
        for passes in (16, 64):
            loss = torch.stack([model(torch.randn(ROWS, 8)).square().mean() for _ in range(passes)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    few, many = ([node.function for node in step.calls()] for step in monitor.recording.steps)
    assert few.count("linear") == 16
    assert "linear" not in many
    assert all(node.value is None for node in monitor.recording.steps[1].nodes)  # nothing keeps outputs
    assert [m.samples for m in monitor.measurements] == [16 * ROWS, 64 * ROWS]
    assert monitor.measurements[1].loss == pytest.approx(loss.item(), rel=1e-5)


def test_very_many_passes_end_with_a_loss_or_when_their_outputs_are_gone():
    """An evaluation with gradients hides no step, and each of two losses counts."""
    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def passes(count):
        return torch.stack([model(torch.randn(ROWS, 8)).square().mean() for _ in range(count)]).sum()

    with Monitor(model, every=1, trials=True) as monitor:
        kept = [model(torch.randn(ROWS, 8)) for _ in range(30)]
        del kept
        losses = [passes(1), None, None]
        losses[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        for i in (1, 2):
            losses[i] = passes(20)
            losses[i].backward()
        optimizer.step()
    first, second = monitor.measurements
    assert [len(m.layers) for m in (first, second)] == [3, 3]
    assert (first.samples, second.samples) == (ROWS, 40 * ROWS)
    assert second.loss == pytest.approx(sum(loss.item() for loss in losses[1:]), rel=1e-5)


def test_of_very_many_passes_those_with_a_gradient_are_counted():
    model, x = nn.Linear(8, 1), torch.randn(ROWS, 8)
    generator = nn.Linear(8, 8)
    with Monitor(model, every=1) as monitor:
        outputs = [model(generator(x)).square().mean() for _ in range(40)]
        torch.stack([outputs[3], outputs[20], outputs[30]]).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert monitor.measurements[0].samples == 3 * ROWS
