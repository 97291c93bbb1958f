"""The Equalizer does the same whether hidden layers are computed as one or module by module."""

import copy

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.core import SigmoidCore


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def model(request):
    """6 x 16, with slopes and shifts of every neuron, and a scale."""
    torch.manual_seed(0)
    model = sc.MLP(5, 16, 6, 3, activation=lambda n: SigmoidCore(n, alpha=3.0, centered=True, scale=1.5))
    sc.prepare(model, torch.randn(50, 5))
    for core in cores_of(model).values():
        core.slope.mul_(torch.rand(16) + 0.5)
        core.shift.add_(torch.randn(16))
    return model.to(request.param)


def cores_of(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, SigmoidCore)}


def by_modules(model):
    """The same network as an `nn.Sequential`, which calls one module after the other."""
    return nn.Sequential(*copy.deepcopy(model).children())


def trained(model, batches, **options):
    """An Equalizer's history, and the slopes, after some steps; of the third layer, a third start shut."""
    model[4].bias.data[::3] += 40
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))
    with sc.Equalizer(model, optimizer, **options) as equalizer:
        for x in batches:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    return equalizer.history, torch.stack([core.slope for core in cores_of(model).values()])


@pytest.mark.parametrize("every", [1, 3, "auto"])
def test_the_equalizer_makes_the_same_changes_in_both(model, every, calls):
    batches = torch.randn(12, 20, 5, generator=torch.Generator().manual_seed(2)).to(model[0].weight.dtype)
    plain = by_modules(model)
    mine, slopes = trained(model, batches, every=every)
    assert len(calls) == len(batches) - 1  # the sampled steps, too, but not the one that sets back
    theirs, expected = trained(plain, batches, every=every)
    assert len(calls) == len(batches) - 1
    tolerance = 1e-3 if slopes.dtype == torch.float32 else 1e-9
    torch.testing.assert_close(slopes, expected, rtol=tolerance, atol=0)
    assert [(s.step, s.neurons) for s in mine] == [(s.step, s.neurons) for s in theirs]
    assert sum(s.neurons for s in mine) >= 5
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.log_sizes, b.log_sizes, rtol=0, atol=tolerance)
