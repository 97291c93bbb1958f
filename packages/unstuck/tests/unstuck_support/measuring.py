"""Measures with the probe, and the same with autograd alone."""

from itertools import pairwise

import torch
from torch import nn

import unstuck


class Forward(nn.Module):
    """A model of named parts, tensors as parameters, and a function for its forward."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.own_forward = forward
        for name, part in parts.items():
            plain = isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter)
            setattr(self, name, nn.Parameter(part) if plain else part)

    def forward(self, *args, **kwargs):
        return self.own_forward(self, *args, **kwargs)


def measured(model, inputs, targets=None, loss_fn=None):
    """The measurement of one batch."""
    return unstuck.diagnose(model, inputs, targets, loss_fn).measurement


def layer(measurement, name):
    """The row of this name."""
    (found,) = [row for row in measurement.layers if row.name == name]
    return found


def names(measurement):
    return [row.name for row in measurement.layers]


def sources(measurement):
    """By name, the names of the rows that feed it."""
    rows = measurement.layers
    return {row.name: [rows[i].name for i in row.sources] for row in rows}


def size(gradient, samples=None):
    """Gradient size: root mean square over the samples of the L2 norm per sample."""
    return float((gradient.double().square().sum() / (samples or len(gradient))).sqrt())


def module_gradients(model, inputs, targets, loss_fn):
    """Outputs of the modules without children and the derivatives of the loss by them, by `retain_grad` of the outputs.

    In evaluation mode, but with the batch's own statistics in a BatchNorm that trains.
    The model's own `.grad` are left with those of this pass.
    """
    outputs, handles = {}, []

    def keep(name):
        def hook(_module, _args, output):
            first = output[0] if isinstance(output, tuple) else output
            if first.requires_grad:
                first.retain_grad()
            outputs[name] = first

        return hook

    training = model.training
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(training)
    for name, module in model.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(keep(name)))
    for parameter in model.parameters():
        parameter.grad = None
    loss_fn(model(inputs), targets).backward()
    for handle in handles:
        handle.remove()
    model.train(training)
    return outputs, {name: output.grad for name, output in outputs.items()}


def mlp(activation, width=8, depth=3, inputs=6, outputs=3, dtype=None):
    """Linear layers with an activation between them."""
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype or torch.get_default_dtype())
