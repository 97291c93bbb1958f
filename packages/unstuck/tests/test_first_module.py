"""The moment at which a process begins to use PyTorch."""

import pickle
import sys
import threading
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from unstuck.cli.first_module import FirstModule

PICKLED = pickle.dumps(nn.Linear(2, 1))


def make():
    nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


def run_a_pickled_one():
    pickle.loads(PICKLED)(torch.ones(1, 2))


def step():
    weights = torch.ones(2, requires_grad=True)
    weights.sum().backward()
    torch.optim.SGD([weights], lr=0.1).step()


@pytest.mark.parametrize("use", [make, run_a_pickled_one, step])
def test_it_comes_once_with_the_first_parameter_call_or_step(use):
    calls = []
    first = FirstModule(lambda: calls.append("begun"))
    torch.ones(2).sum()
    assert calls == []
    for _ in range(2):
        use()
    first.remove()
    assert calls == ["begun"]


def test_another_thread_does_not_count():
    calls = []
    first = FirstModule(lambda: calls.append("begun"))
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert calls == []
    make()
    first.remove()
    assert calls == ["begun"]


def test_nothing_comes_after_its_removal():
    FirstModule(lambda: pytest.fail("it waits no longer")).remove()
    make()


def test_a_function_that_another_thread_compiles_stays_one_graph():
    first = FirstModule(lambda: pytest.fail("another thread does not count"))
    results = []

    def compiled():
        layer = nn.Linear(2, 2)
        results.append(torch.compile(lambda x: layer(x), backend="eager", fullgraph=True)(torch.ones(1, 2)))

    thread = threading.Thread(target=compiled)
    thread.start()
    thread.join()
    first.remove()
    assert len(results) == 1


def test_another_finder_may_replace_the_loaders_function(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    calls = []
    monkeypatch.setattr(SourceFileLoader, "exec_module", lambda _loader, module: calls.append(module))
    first = FirstModule(print)
    try:
        loader = first.find_spec("torch", None).loader
        execute = loader.exec_module
        del loader.exec_module  # the other one has put its own there before, and takes it away
        execute("module")
        assert calls[0] == "module"
    finally:
        first.remove()


def test_two_that_wait_ask_only_the_finders_behind_them(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    both = [FirstModule(print), FirstModule(print)]
    try:
        assert find_spec("torch").name == "torch"
    finally:
        for each in both:
            each.remove()
