"""A Monitor under torch.compile: no graph break, nothing compiled again, and the numbers of an uncompiled training."""

import pytest
import torch
from support.compiling import (
    batches,
    fresh_compiler,  # noqa: F401
    in_place,
    loss_function,
    train,
    uncompiled,
    whole_model,
)
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from unstuck import Monitor, diagnose

DATA = batches(steps=9, rows=20)


class Network(nn.Module):
    """Not an `nn.Sequential`, nor of PyTorch's own layers only: `module.compile(fullgraph=True)` refuses those."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(8, 16, nn.ReLU()), Block(16, 16, nn.Sigmoid())])
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x).tanh()


class Block(nn.Module):
    def __init__(self, before, after, activation):
        super().__init__()
        self.linear, self.activation = nn.Linear(before, after), activation

    def forward(self, x):
        return self.activation(self.linear(x))


def build():
    torch.manual_seed(1)
    return Network()


def block_by_block(model, backend):
    for block in model.blocks:
        block.compile(backend=backend, fullgraph=True)
    return uncompiled(model, None)


def measured(how, backend, *, late=False, compile_step=False):
    """The measurements of a training. The Monitor is made before or after the model is compiled."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    loss = how(model, backend) if late else None
    step = torch.compile(optimizer.step, backend=backend) if compile_step else None
    with Monitor(model, every=3) as monitor:
        train(loss or how(model, backend), optimizer, DATA, step)
    return monitor.measurements


def assert_same(measurements, expected):
    assert [m.step for m in measurements] == [m.step for m in expected] == [0, 3, 6]
    for a, b in zip(measurements, expected, strict=True):
        for one, other in zip(a.layers, b.layers, strict=True):
            assert (one.name, one.kind, one.sources) == (other.name, other.kind, other.sources)
            assert one.gradient == pytest.approx(other.gradient, rel=1e-5)
            assert one.rms == pytest.approx(other.rms, rel=1e-5)
        for one, other in zip(a.weights, b.weights, strict=True):
            assert one.name == other.name
            assert (one.gradient, one.update) == pytest.approx((other.gradient, other.update), rel=1e-4)


@pytest.mark.parametrize(("how", "late"), [(whole_model, True), (in_place, False), (loss_function, False)])
def test_a_compiled_training_has_one_graph_and_the_numbers_of_an_uncompiled_one(how, late):
    counter = CompileCounter()
    measurements = measured(how, counter, late=late)
    assert counter.frame_count == 1
    assert not counters["graph_break"]
    assert_same(measurements, measured(uncompiled, None))


@pytest.mark.parametrize("how", [whole_model, block_by_block])
def test_a_compiled_backward_pass_and_optimizer_step_are_measured_as_uncompiled_ones(how):
    assert_same(measured(how, "aot_eager", compile_step=True), measured(uncompiled, None))


def test_the_monitor_and_diagnose_accept_a_compiled_model():
    model = torch.compile(build(), backend="eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, every=2) as monitor:
        train(uncompiled(model, None), optimizer, DATA[:3])
    assert [m.step for m in monitor.measurements] == [0, 2]
    x, y = DATA[0]
    found = diagnose(model, x, y, nn.functional.cross_entropy).measurement
    expected = diagnose(model._orig_mod, x, y, nn.functional.cross_entropy).measurement
    assert [layer.gradient for layer in found.layers] == [layer.gradient for layer in expected.layers]
    assert [layer.kind for layer in found.layers] == [layer.kind for layer in expected.layers]
