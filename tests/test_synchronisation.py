"""Steps that are not measured wait for no number: on a GPU, each `.item()` or `.cpu()` would stop it."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sigmoidcore as sc
import unstuck
from unstuck.watch import Watch

READS = {"aten._local_scalar_dense", "aten.is_nonzero", "aten.nonzero", "aten.equal", "aten.masked_select"}
"""Operations whose result Python waits for: `item`, `bool`, `float`, `int`, and shapes that depend on numbers."""
MOVES = ("cpu", "numpy", "tolist", "__array__")
"""Methods that copy to the CPU. On the CPU they are no operations, so that they are counted as calls."""


class Reads(TorchDispatchMode):
    """Collects what a GPU would have to be waited for."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.found = []
        for name in MOVES:
            method = getattr(torch.Tensor, name)
            monkeypatch.setattr(torch.Tensor, name, self.counted(name, method))

    def counted(self, name, method):
        def call(tensor, *arguments, **options):
            self.found.append(name)
            return method(tensor, *arguments, **options)

        return call

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = str(function.overloadpacket)
        self.found += [name] if name in READS else []
        return function(*arguments, **(options or {}))


def cores():
    model = sc.MLP(16, 16, 6, 4)
    sc.prepare(model, torch.randn(64, 16))
    return model


def alone(model, optimizer):
    return ExitStack()


def equalized(model, optimizer):
    return sc.Equalizer(model, optimizer, every=1_000)


def monitored(model, optimizer):
    return unstuck.Monitor(model, every=1_000)


def watched(model, optimizer):
    stack = ExitStack()
    stack.callback(Watch(lambda *finding: None, every=1_000).remove)
    return stack


def steps(model, optimizer, count):
    """Steps of a training that reads nothing itself."""
    x, y = torch.randn(64, 16), torch.randint(4, (64,))
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("follow", [alone, equalized, monitored, watched])
def test_a_step_that_is_not_measured_reads_no_number(follow, monkeypatch):
    model = cores()
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    with follow(model, optimizer):
        steps(model, optimizer, 12)  # the first steps are measured, and models and optimizers found
        reads = Reads(monkeypatch)
        with reads:
            steps(model, optimizer, 5)
    monkeypatch.undo()
    assert reads.found == []


@pytest.mark.parametrize("follow", [monitored, equalized])
def test_a_step_that_is_measured_reads_numbers(follow, monkeypatch):
    model = cores()
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    reads = Reads(monkeypatch)
    with follow(model, optimizer), reads:
        steps(model, optimizer, 1)
    assert reads.found


@pytest.mark.parametrize("read", [lambda x: x.item(), lambda x: x.cpu(), bool, lambda x: x.nonzero()])
def test_a_step_that_reads_a_number_is_noticed(read, monkeypatch):
    reads = Reads(monkeypatch)
    with reads:
        read(torch.ones(1))
    assert reads.found
