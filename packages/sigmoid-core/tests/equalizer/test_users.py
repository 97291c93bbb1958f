"""What PyTorch users do in training, with an Equalizer attached, checked against gradients by hand."""

import math
from functools import partial

import pytest
import torch
from core_support.equalized import DEPTH, NEVER, assert_same, cores, snapshot
from support.copies import COPIES
from torch import nn
from unstuck_support.steps import WAYS, functional_derivatives, in_vmap, loss_of, residual, scale_grows

from sigmoidcore import Equalizer


@pytest.fixture
def model(model):
    cores(model)[2].slope.mul_(3.0)  # a profile with a shape of its own
    return model


def idle(model):
    return torch.optim.SGD(model.parameters(), lr=0.0)


def sampled(model, run, **options):
    """What the Equalizer sees of one step, whose forward and backward passes are `run(optimizer)`."""
    optimizer = idle(model)
    with Equalizer(model, optimizer, tolerance=NEVER, **options) as equalizer:
        run(optimizer)
        optimizer.step()
    model.zero_grad()
    assert len(equalizer.history) == 1
    return torch.tensor(equalizer.history[0].log_sizes, dtype=torch.float64)


def by_hand(model, loss_fn):
    """log g_1 ... g_L of `loss_fn(model)`, from the derivatives of the loss by the preactivations."""
    taps = []

    def keep(_, args):
        if args[0].requires_grad:
            taps.append(args[0])

    handles = [core.register_forward_pre_hook(keep) for core in cores(model)]
    gradients = torch.autograd.grad(loss_fn(model), taps)
    for handle in handles:
        handle.remove()
    assert len(taps) == DEPTH
    return torch.stack([g.double().square().sum().div(len(g)).sqrt().log() for g in gradients])


def assert_close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_slopes_stay_float32_outputs_keep_their_dtype_and_the_profile_is_that_of_float32(
    model, batch, dtype
):
    outputs = []

    def forward(_):
        with torch.autocast("cpu", dtype=dtype):
            outputs.append(model(batch[0]))
        nn.functional.cross_entropy(outputs[0].float(), batch[1]).mul(1024).backward()

    seen = sampled(model, forward)
    assert outputs[0].dtype == dtype
    assert all(core.slope.dtype == core.shift.dtype == torch.float32 for core in cores(model))
    assert_close(seen - math.log(1024), by_hand(model, partial(loss_of, batch=batch)), atol=0.05)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_gradient_scaler_skips_leaves_no_sample_and_moves_nothing(model, batch, fused):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    before = snapshot(model)
    with Equalizer(model, optimizer, every=1, tolerance=1.01, scaler=scaler) as equalizer:
        for factor in (math.inf, math.nan, 1.0):
            assert_same(model, before)
            assert not equalizer.history
            optimizer.zero_grad()
            scaler.scale(loss_of(model, batch) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 2.0**10
    assert [math.isfinite(s.spread) for s in equalizer.history] == [True]
    assert equalizer.history[0].slopes > 0


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"emptied before a second pass through one graph"}))
def test_the_profile_of_a_step_is_that_of_its_loss_whatever_is_done_besides(model, batch, way):
    expected = by_hand(model, partial(loss_of, batch=batch))
    assert_close(sampled(model, lambda optimizer: WAYS[way](model, batch, optimizer)), expected)


@pytest.mark.parametrize("unscale", [False, True])
def test_with_its_scaler_the_history_has_the_profile_of_unscaled_and_unclipped_gradients(model, batch, unscale):
    expected = by_hand(model, partial(loss_of, batch=batch))
    optimizer, scaler = idle(model), torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    with Equalizer(model, optimizer, every=1, tolerance=NEVER, scaler=scaler) as equalizer:
        scale_grows(model, batch, optimizer, scaler, unscale)
    assert len(equalizer.history) == 4
    for sample in equalizer.history:
        assert_close(torch.tensor(sample.log_sizes, dtype=torch.float64), expected)


def test_gradients_of_accumulated_micro_batches_with_clipping_are_joined(model, batch):
    def accumulate(_):
        for rows in torch.arange(50).split(10):
            (loss_of(model, (batch[0][rows], batch[1][rows])) / 5).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)

    expected = by_hand(model, partial(loss_of, batch=batch))
    # Each micro-batch has a fifth of the samples: the joined size lacks the fifth in its mean, in every layer alike.
    assert_close(sampled(model, accumulate), expected + math.log(5) / 2)


def test_a_closure_is_sampled_by_its_last_backward_pass(model, batch):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-3, max_iter=3)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        calls.append(snapshot(model))
        return loss

    with Equalizer(model, optimizer, every=1, tolerance=NEVER) as equalizer:
        for _ in range(2):
            optimizer.step(closure)
    assert [s.step for s in equalizer.history] == [0, 1]
    assert len(calls) > 2
    model.load_state_dict(calls[-1])
    expected = by_hand(model, partial(loss_of, batch=batch))
    assert_close(torch.tensor(equalizer.history[1].log_sizes, dtype=torch.float64), expected)


def test_derivatives_by_the_inputs_do_not_count_as_gradients_of_the_loss(model, batch):
    expected = by_hand(model, partial(residual, x=batch[0]))
    assert_close(sampled(model, lambda _: residual(model, batch[0]).backward()), expected)


def test_a_loss_whose_backward_pass_is_itself_differentiated_counts(model, batch):
    with pytest.warns(UserWarning, match="create_graph"):
        seen = sampled(model, lambda _: loss_of(model, batch).backward(create_graph=True))
    assert_close(seen, by_hand(model, partial(loss_of, batch=batch)))


def test_torch_func_gives_the_derivatives_that_it_gives_without_an_equalizer(model, batch):
    without = functional_derivatives(model, batch[0])
    with Equalizer(model, idle(model)):
        assert torch.equal(functional_derivatives(model, batch[0]), without)


def test_one_warning_comes_after_ten_steps_without_a_gradient(model, batch):
    optimizer = idle(model)

    with Equalizer(model, optimizer) as equalizer:
        for _ in range(9):
            in_vmap(model, batch, optimizer)
        with pytest.warns(RuntimeWarning, match="no gradient came back to 7 of 7 cores, the first of them '1'"):
            in_vmap(model, batch, optimizer)
        for _ in range(15):
            in_vmap(model, batch, optimizer)
    assert not equalizer.history


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_made_on_a_sampled_step_computes_the_same_and_is_not_watched(model, batch, copied):
    optimizer = idle(model)
    with Equalizer(model, optimizer, tolerance=NEVER) as equalizer:
        loss_of(model, batch).backward()
        other = copied(model)
        torch.testing.assert_close(other(batch[0]), model(batch[0]))
        loss_of(other, batch).mul(math.nan).backward()
        optimizer.step()
    assert [math.isfinite(s.spread) for s in equalizer.history] == [True]
    other[1].set_slope(9.0)
    assert not torch.equal(other[1].slope, model[1].slope)


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16])
def test_a_model_cast_to_half_precision_trains_with_float32_slopes(model, batch, cast):
    slopes = [core.slope.clone() for core in cores(model)]
    model = cast(model)
    assert all(torch.equal(core.slope, slope) for core, slope in zip(cores(model), slopes, strict=True))
    dtype = model[0].weight.dtype
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with Equalizer(model, optimizer, every=1, tolerance=1.1) as equalizer:
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, (batch[0].to(dtype), batch[1])).backward()
            optimizer.step()
    assert all(math.isfinite(s.spread) and s.slopes > 0 for s in equalizer.history)
    assert all(core.slope.dtype == torch.float32 for core in cores(model))
    assert not all(torch.equal(core.slope, slope) for core, slope in zip(cores(model), slopes, strict=True))
