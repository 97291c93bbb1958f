"""Helpers for tests of the Equalizer: a step, snapshots, saturated layers, the profile by hand."""

import math

import torch
from torch import nn

from sigmoidcore import SigmoidCore
from sigmoidcore.gain import mean_relative_slope

DEPTH = 7
"""Odd, so that the median is a layer's own."""
NEVER = 1e30
"""A tolerance that no profile exceeds: no slope follows the profile."""


def idle():
    """An optimizer without parameters of the model: only the Equalizer changes it."""
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)


def cores(model):
    return [m for m in model.modules() if isinstance(m, SigmoidCore)]


def slopes(model):
    return torch.stack([core.slope for core in cores(model)])


def backward(model, batch, factor=1.0):
    (factor * nn.functional.cross_entropy(model(batch[0]), batch[1])).backward()


def step(model, optimizer, batch, factor=1.0):
    model.zero_grad()
    backward(model, batch, factor)
    optimizer.step()


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model, before):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def log_profile(model, batch):
    """log g_1 ... g_L, by hand: root mean square over the samples of the L2 norm of each one's gradient."""
    taps, x = [], batch[0]
    for module in model:
        if isinstance(module, SigmoidCore):
            x.retain_grad()
            taps.append(x)
        x = module(x)
    nn.functional.cross_entropy(x, batch[1]).backward()
    model.zero_grad()
    return [math.log(math.sqrt(float(t.grad.double().square().sum()) / len(t))) for t in taps]


def drive(model, layer, how, size, neurons=slice(None)):
    """Saturate neurons of a layer: move their z by `size`, or multiply it."""
    linear, core = model[2 * layer], model[2 * layer + 1]
    with torch.no_grad():
        if how == "offset":
            linear.bias[neurons] += size / core.slope[neurons]
        else:
            for tensor in (linear.weight, linear.bias, core.shift):
                tensor[neurons] *= size


def openness(model, layer, x):
    """Mean relative slope of each neuron of a layer."""
    core = model[2 * layer + 1]
    with torch.no_grad():
        return mean_relative_slope(core.slope * (model[: 2 * layer + 1](x) - core.shift))
