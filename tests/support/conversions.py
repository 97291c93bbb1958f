"""What the tests of convert ask of every conversion: the function stays, and so does what the model can load."""

import copy

import torch

import sigmoidcore as sc


def flat(values):
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(values, torch.Tensor):
        return [values]
    return [t for v in (values.values() if isinstance(values, dict) else values) for t in flat(v)]


def unchanged(model, *inputs, **options):
    """Convert; outputs and all gradients are the same bit for bit, and the plain state dict loads strictly."""
    plain, parameters = copy.deepcopy(model), dict(model.named_parameters())
    results = []
    report = sc.convert(model, **options)
    after = dict(model.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())  # an optimizer stays valid
    for network in (plain, model):
        torch.manual_seed(1)
        outputs = flat(network(*inputs))
        sum(o.square().sum() for o in outputs).backward()
        results.append([*outputs, *(p.grad for _, p in sorted(network.named_parameters()))])
        network.zero_grad()
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        assert one is other is None or (one.dtype == other.dtype and torch.equal(one, other))
    model.load_state_dict(plain.state_dict(), strict=True)
    return report


def why(report, name):
    (found,) = [a for a in report.activations if a.name == name]
    return found.why
