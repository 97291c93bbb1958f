"""Trainings with a gradient scaler: gradients are unscaled, and skipped steps do not count."""

import math

import pytest
import torch
from support.copies import COPIES
from unstuck_support.monitored import (
    ROWS,
    assert_right,
    sgd,
    sizes,
    sizes_by_hand,
)
from unstuck_support.steps import loss_of, scale_grows

from unstuck import Monitor

pytestmark = pytest.mark.usefixtures("leaves_nothing")


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
    ("fused", "given", "zero_first"),
    [(False, True, True), (False, False, True), (True, False, False), (True, True, True)],
)


@SCALED
def test_steps_skipped_by_the_scaler_do_not_count(model, batch, fused, given, zero_first):
    inf, nan = math.inf, math.nan
    expected = sizes_by_hand(model, lambda network: loss_of(network, batch))
    monitor = scaled(model, batch, [inf, nan, 1.0, nan, 1.0], fused=fused, given=given, zero_first=zero_first)
    assert [m.step for m in monitor.measurements] == [0, 1]
    assert sizes(monitor.measurements[0]) == pytest.approx(expected, rel=1e-5)
    assert monitor.measurements[0].samples == ROWS
    assert all(w.update > 0 for w in monitor.measurements[0].weights)


class Wrapper:
    """An optimizer around another one, as Lookahead is."""

    def __init__(self, base):
        self.base, self.param_groups = base, base.param_groups

    def step(self):
        self.base.step()


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("plain_steps", [0, 1])
def test_a_scaler_is_found_behind_a_wrapper_and_after_steps_without_it(model, batch, wraps, plain_steps):
    optimizer, scaler = sgd(model, lr=0.0), torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=1)
    with Monitor(model, every=1) as monitor:
        for step in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            if step < plain_steps:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(Wrapper(optimizer) if wraps else optimizer)
                scaler.update()
    assert len(monitor.measurements) == 4
    for measured in monitor.measurements:
        assert measured.loss == pytest.approx(loss.item(), rel=1e-5)
        assert_right(measured, model, lambda network: loss_of(network, batch))


@SCALED
def test_a_network_without_finite_gradients_is_measured_after_ten_skipped_steps(model, batch, fused, given, zero_first):
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    monitor = scaled(model, batch, [1.0] * 20, fused=fused, given=given, zero_first=zero_first)
    assert [m.step for m in monitor.measurements] == [0]
    measured = monitor.measurements[0]
    assert any("the gradients of 10 passes in a row" in note for note in measured.notes)
    assert measured.samples == ROWS
    assert [layer.nonfinite > 0 for layer in measured.layers] == [False, False, True, True, True, True, True]
    assert measured.weights[2].nonfinite == 1
    assert all(w.nonfinite_gradient == math.prod(w.shape) for w in measured.weights)
    assert all(w.update is None for w in measured.weights)


def test_a_network_that_becomes_nan_between_two_measured_steps_is_measured(model, batch):
    monitor = scaled(model, batch, [1.0] * 5 + [math.nan] * 15, every=100)
    assert [m.step for m in monitor.measurements] == [0, 5]
    assert any("the gradients of 10 passes in a row" in note for note in monitor.measurements[1].notes)
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
