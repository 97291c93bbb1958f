"""A Monitor under torch.compile: no graph break, nothing compiled again, and the numbers of an uncompiled training."""

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from sigmoidcore import Monitor, diagnose

STEPS = 9


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    assert stance() == "default"
    torch._dynamo.reset()


def stance():
    now = torch.compiler.set_stance("default")
    now.__exit__(None, None, None)
    return now.prev.stance


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


def batches():
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(20, 8, generator=generator), torch.randint(0, 3, (20,), generator=generator)) for _ in range(STEPS)
    ]


def loss_of(model):
    return lambda x, y: nn.functional.cross_entropy(model(x), y)


def uncompiled(model, backend):
    return loss_of(model)


def whole_model(model, backend):
    return loss_of(torch.compile(model, backend=backend, fullgraph=True))


def in_place(model, backend):
    model.compile(backend=backend, fullgraph=True)
    return loss_of(model)


def loss_function(model, backend):
    return torch.compile(loss_of(model), backend=backend, fullgraph=True)


def block_by_block(model, backend):
    for block in model.blocks:
        block.compile(backend=backend, fullgraph=True)
    return loss_of(model)


def train(how, backend, *, late=False, compile_step=False):
    """Train; returns the measurements. The Monitor is made before or after the model is compiled."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    loss_fn = how(model, backend) if late else None
    step = torch.compile(optimizer.step, backend=backend) if compile_step else optimizer.step
    with Monitor(model, every=3) as monitor:
        loss_fn = loss_fn or how(model, backend)
        for x, y in batches():
            optimizer.zero_grad()
            loss_fn(x, y).backward()
            step()
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


@pytest.mark.parametrize("how", [whole_model, in_place, loss_function])
@pytest.mark.parametrize("late", [False, True])
def test_a_compiled_training_has_one_graph_and_the_numbers_of_an_uncompiled_one(how, late):
    counter = CompileCounter()
    measurements = train(how, counter, late=late)
    assert counter.frame_count == 1
    assert not counters["graph_break"]
    assert_same(measurements, train(uncompiled, None))


@pytest.mark.parametrize("how", [whole_model, block_by_block])
def test_a_compiled_backward_pass_and_optimizer_step_are_measured_as_uncompiled_ones(how):
    assert_same(train(how, "aot_eager", compile_step=True), train(uncompiled, None))


def test_nothing_is_compiled_again():
    model = build()
    loss_fn = loss_function(model, "eager")
    x, y = batches()[0]
    loss_fn(x, y).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with torch.compiler.set_stance("fail_on_recompile"):
        with Monitor(model, every=3) as monitor:
            for x, y in batches():
                optimizer.zero_grad()
                loss_fn(x, y).backward()
                optimizer.step()
        assert stance() == "fail_on_recompile"
    assert [m.step for m in monitor.measurements] == [0, 3, 6]


def test_the_monitor_and_diagnose_accept_a_compiled_model():
    model = torch.compile(build(), backend="eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, every=2) as monitor:
        for x, y in batches()[:3]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert [m.step for m in monitor.measurements] == [0, 2]
    x, y = batches()[0]
    found = diagnose(model, x, y, nn.functional.cross_entropy).measurement
    expected = diagnose(model._orig_mod, x, y, nn.functional.cross_entropy).measurement
    assert [layer.gradient for layer in found.layers] == [layer.gradient for layer in expected.layers]
    assert [layer.kind for layer in found.layers] == [layer.kind for layer in expected.layers]
