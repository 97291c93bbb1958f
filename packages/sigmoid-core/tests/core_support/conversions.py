"""Checks of every conversion: outputs, gradients and loading a checkpoint do not change."""

import copy

import torch
from torch import nn

import sigmoidcore as sc


def flat(values):
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(values, torch.Tensor):
        return [values]
    return [t for v in (values.values() if isinstance(values, dict) else values) for t in flat(v)]


def unchanged(model, *inputs, **options):
    """Convert; outputs and all gradients are the same, and the plain state dict loads strictly.

    They are the same bit for bit if the layers run one by one, and to rounding where some run as one.
    """
    plain, parameters = copy.deepcopy(model), dict(model.named_parameters())
    report = sc.convert(model, **options)
    after = dict(model.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())  # an optimizer stays valid
    expected = results(plain, inputs)
    torch.testing.assert_close(results(model, inputs), expected, rtol=1e-4, atol=1e-6)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)  # which sees each layer
    torch.testing.assert_close(results(model, inputs), expected, rtol=0, atol=0)
    handle.remove()
    model.load_state_dict(plain.state_dict(), strict=True)
    return report


def results(model, inputs):
    """Outputs, and the gradients of all parameters by name."""
    torch.manual_seed(1)
    outputs = flat(model(*inputs))
    sum(o.square().sum() for o in outputs).backward()
    found = [*outputs, *(p.grad for _, p in sorted(model.named_parameters()))]
    model.zero_grad()
    return found


def why(report, name):
    (found,) = [a for a in report.activations if a.name == name]
    return found.why
