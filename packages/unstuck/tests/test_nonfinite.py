"""A Monitor names the operation that made the first NaN or infinity of a training, by repeating that step."""

import copy
import pickle
import weakref

import pytest
import torch
from torch import nn

import unstuck
from unstuck.step.recorder import PASSES

MSE = nn.functional.mse_loss
BAD = 7


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))


def train(model, loss_of, *, steps=12, accumulate=1, trace=True, autocast=False, empty=False):
    """Train with a Monitor whose second measurement would come after the end; the loss, or the batch, is bad once."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with unstuck.Monitor(model, trace_nonfinite=trace) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            for _ in range(accumulate):
                x = torch.randn(32, 8) * (not empty or step != BAD)
                with torch.autocast("cpu", enabled=autocast):
                    loss = loss_of(model(x), 0.0 if step == BAD else 1.0)
                loss.backward()
            optimizer.step()
    return monitor


def message(monitor):
    return next((f.message for f in monitor.diagnosis().findings if f.rule == "US401"), "")


def logarithm(outputs, scale):
    return -torch.log(torch.sigmoid(outputs) * scale).mean()


def root(outputs, scale):
    return torch.sqrt(((outputs * scale) ** 2).sum())


def in_place(outputs, scale):
    shifted = outputs.clone()
    shifted[:, 0] = outputs[:, 0] - (1 - scale) * outputs[:, 0]
    return (outputs.detach() / shifted).mean()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("loss_of", "operation", "line"),
    [
        (logarithm, "`log` in the loss", "torch.log(torch.sigmoid(outputs) * scale)"),
        (root, "the backward pass of `sqrt`", "torch.sqrt(((outputs * scale) ** 2).sum())"),
        (in_place, "`div` in the loss", "outputs.detach() / shifted"),
    ],
)
def test_the_operation_of_the_loss_is_named_with_its_step_line_and_values(
    loss_of, operation, line, autocast, accumulate
):
    text = message(train(network(), loss_of, accumulate=accumulate, autocast=autocast))
    assert f"In step {BAD}, {operation} made the first infinity (test_nonfinite.py:" in text
    assert line in text
    assert ", from " in text


def test_the_operation_of_the_model_is_named():
    class Unit(nn.Module):
        def forward(self, x):
            return x / x.abs().amax(1, keepdim=True)

    model = nn.Sequential(Unit(), nn.Linear(8, 1))
    text = message(train(model, lambda outputs, scale: outputs.square().mean(), empty=True))
    assert f"In step {BAD}, `div` in `0` made the first NaN (test_nonfinite.py:" in text
    assert "return x / x.abs().amax(1, keepdim=True)" in text


def test_the_training_is_that_without_it_bit_for_bit():
    torch.manual_seed(0)
    model = network()
    for loss_of in (logarithm, root):
        with_trace, without = copy.deepcopy(model), copy.deepcopy(model)
        train(with_trace, loss_of, trace=True, steps=BAD)
        train(without, loss_of, trace=False, steps=BAD)
        for name, value in without.state_dict().items():
            assert torch.equal(with_trace.state_dict()[name], value), name


def test_the_repeated_step_changes_neither_random_numbers_nor_running_statistics():
    ends = []
    for trace in (True, False):
        torch.manual_seed(0)
        model = network()
        train(model, logarithm, trace=trace)
        ends.append((torch.rand(4), model[1].num_batches_tracked))
    assert all(map(torch.equal, *ends))


def test_networks_that_train_against_each_other_are_traced_one_by_one():
    torch.manual_seed(0)
    generator, critic = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (generator, critic)]
    with unstuck.Monitor(generator, trace_nonfinite=True) as monitor:
        for step in range(10):
            optimizers[1].zero_grad()
            (critic(generator(torch.randn(16, 4)).detach()) - critic(torch.randn(16, 2))).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            torch.log(critic(generator(torch.randn(16, 4))) * (step != BAD)).mean().backward()
            optimizers[0].step()
    assert f"In step {BAD}, `log` in the loss made the first infinity" in message(monitor)


def test_finite_but_huge_gradients_are_not_the_cause():
    def loss_of(outputs, scale):
        return 1e30 * outputs.mean() if scale else torch.log(scale * outputs.exp().sum())

    assert f"In step {BAD}, `log` in the loss" in message(train(nn.Linear(8, 1), loss_of))


def test_a_loop_without_an_optimizer_keeps_the_latest_passes_alone():
    model, inputs = network(), []
    with unstuck.Monitor(model, trace_nonfinite=True):
        for _ in range(PASSES + 3):
            x = torch.randn(32, 8)
            model(x).square().mean().backward()
            inputs.append(weakref.ref(x))
            del x
        assert [reference() is None for reference in inputs] == [True] * PASSES + [False] * 3


def test_overflows_that_a_scaler_skips_are_not_traced():
    model = nn.Linear(8, 1)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with unstuck.Monitor(model, every=1, scaler=scaler, trace_nonfinite=True) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(16, 8)).square().mean() * 1e3).backward()
            scaler.step(optimizer)
            scaler.update()
    assert all(measurement.origin is None for measurement in monitor.measurements)


def test_a_model_under_it_is_copied_and_stored_like_any_other():
    model = network()
    with unstuck.Monitor(model, trace_nonfinite=True):
        assert pickle.loads(pickle.dumps(copy.deepcopy(model))) is not None
