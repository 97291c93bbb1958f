"""Measurements of a Monitor, and the same numbers by hand."""

import pytest
import torch
from support.compiling import stance
from unstuck_support.hooks import global_hooks
from unstuck_support.steps import loss_of

from unstuck import Monitor

ROWS = 24


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
