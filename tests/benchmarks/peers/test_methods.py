"""What all methods have in common: their networks have the size that is asked for, and learn."""

from dataclasses import replace

import pytest
import torch
from support.problems import SHAPES, problem
from torch import nn

from peers import BUILT_IN, Method
from peers.method import RATES
from peers.weights import weighted
from training import Split, train

CASES = [(name, kind) for name in BUILT_IN for kind in SHAPES]


def built(name, kind, seed=0, **sizes):
    torch.manual_seed(seed)
    given = problem(kind, **sizes)
    torch.manual_seed(seed)
    return given, BUILT_IN[name].network(given)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_network_has_as_many_layers_as_asked_for_and_a_gradient_for_each_parameter(name, kind):
    given, model = built(name, kind)
    outputs = model(given.inputs)
    assert outputs.shape == (64, 2)
    gates = given.depth - len(given.stem()) if name == "highway" else 0
    odd = name.startswith(("resnet", "fixup")) and kind == "mlp"  # blocks of two after a stem of one
    assert len(list(weighted(model))) == given.depth + 1 + gates - odd
    nn.functional.cross_entropy(outputs, given.targets).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_seed_decides_the_weights(name, kind):
    (_, one), (_, same), (_, other) = (built(name, kind, seed, depth=3) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_shallow_network_learns(name, kind):
    torch.manual_seed(0)
    x = torch.randn(200, *SHAPES[kind])
    y = (x.flatten(1).sum(1) > 0).long()
    data = Split("halves", x, y, x, y, classes=2)
    method = BUILT_IN[name]
    given = replace(problem(kind, depth=2), inputs=x, targets=y)
    rate = method.rates[0] if len(method.rates) == 1 else 0.03
    losses = train(method.network(given), data, epochs=10, batch_size=50, lr=rate, **method.training()).losses
    assert losses[-1] < 0.98 * losses[0]


def test_settings_are_all_pairs_of_knob_and_rate():
    method = Method("a", "b", nn.Identity, knob="gain", knobs=(1.0, 2.0))
    assert method.settings() == [(knob, rate) for knob in (1.0, 2.0) for rate in RATES]
    assert method.settings((0.5,)) == [(1.0, 0.5), (2.0, 0.5)]
    assert Method("a", "b", nn.Identity).settings((0.1, 0.2)) == [(None, 0.1), (None, 0.2)]


def test_sigmoid_core_has_one_setting_whatever_rates_are_asked_for():
    assert BUILT_IN["sigmoid-core"].settings((0.1, 0.2)) == [(None, 0.03)]
