"""The observer interface: what it shows of layers, and what it leaves alone."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn
from unstuck_support.hooks import global_hooks

from unstuck.observation.observer import Observer


class Names(Observer):
    """Lists what arrives and leaves."""

    def __init__(self, layers):
        super().__init__(layers)
        self.events = []

    def arrives(self, name, layer, args):
        self.events.append(f"{name} arrives")

    def leaves(self, name, layer, args, kwargs, output):
        self.events.append(f"{name} leaves" if output is not None else f"{name} fails")


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))


def test_it_sees_its_layers_only_while_it_is_attached_and_none_of_a_copy(model):
    observer = Names({"core": model[1], "last": model[2]})
    with observer:
        model(torch.zeros(1, 3))
        copy.deepcopy(model)(torch.zeros(1, 3))
        pickle.loads(pickle.dumps(model))(torch.zeros(1, 3))
    model(torch.zeros(1, 3))
    assert observer.events == ["core arrives", "core leaves", "last arrives", "last leaves"]
    assert not global_hooks()


def test_it_hears_of_a_layer_that_fails(model):
    observer = Names({"last": model[2]})
    with observer, pytest.raises(RuntimeError, match="shape"):
        model[2](torch.zeros(1, 3))
    assert observer.events == ["last arrives", "last fails"]


def test_one_that_is_dropped_while_it_is_attached_leaves_nothing_behind(model):
    observer = Names({"core": model[1]})
    observer.attach()
    observer.attach()
    assert len(global_hooks()) == 2
    del observer
    gc.collect()
    assert not global_hooks()
