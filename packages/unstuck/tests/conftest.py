"""A model and a batch for a Monitor."""

import gc
import sys

import pytest
import torch
from torch import nn
from unstuck_support.monitored import ROWS, attached

from unstuck import extensions
from unstuck.measure import running_module
from unstuck.measure.forward_pass import ForwardPass
from unstuck.measure.probe import Probe


@pytest.fixture(autouse=True)
def bugs_are_errors(request, monkeypatch):
    """A measurement notes a bug of ours, so that the user's program runs on; a test has to fail."""

    def fail(*arguments):
        raise arguments[-1]

    if request.node.get_closest_marker("with_bugs") is None:
        monkeypatch.setattr(ForwardPass, "note_bug", fail)
        monkeypatch.setattr(Probe, "_give_up", fail)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Without other packages that build on this one."""
    monkeypatch.setattr("unstuck.extensions.entry_points", lambda **_: ())
    names = (extensions.extensions, extensions.packages, extensions.folders, extensions.is_library_file)
    cached = (*names, running_module._kind_and_origin)  # it asks whether a class is one of theirs
    for function in cached:
        function.cache_clear()
    yield
    monkeypatch.undo()  # before the entry points are read again
    for function in cached:
        function.cache_clear()


@pytest.fixture
def own_process(monkeypatch, tmp_path):
    """The process as it was afterwards, in a folder of its own; what it holds already is not searched for models."""
    gc.freeze()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    yield
    gc.unfreeze()


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3)
    )


@pytest.fixture
def batch():
    return torch.randn(ROWS, 8), torch.randint(0, 3, (ROWS,))


@pytest.fixture
def leaves_nothing():
    yield
    if attached():  # a dropped object may not have been collected yet
        gc.collect()
    assert not attached()
