"""contexts: a forward that switches what torch.fx does not record is not written anew."""

import copy

import pytest
import torch
from support.conversions import unchanged, why
from torch import nn
from torch.utils.checkpoint import checkpoint

import sigmoidcore as sc


def without_gradient(net, x):
    with torch.no_grad():
        h = net.a(x)
    return net.b(torch.tanh(h))


@torch.no_grad()
def decorated(net, x):
    return net.a(x)


def with_gradient(net, x):
    with torch.enable_grad():
        h = net.a(x)
    return net.b(torch.tanh(h))


def without_autocast(net, x):
    with torch.autocast("cpu", enabled=False):
        h = net.a(x.float())
    return net.b(torch.tanh(h))


def with_autocast(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = net.a(x)
    return net.b(torch.tanh(h))


def grad_branch(net, x):
    h = torch.tanh(net.a(x))
    return net.b(h * 2 if torch.is_grad_enabled() else h)


def grad_number(net, x):
    return net.b(torch.tanh(net.a(x)) * (2.0 if torch.is_grad_enabled() else 1.0))


class Net(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.a, self.b, self.run = nn.Linear(4, 8), nn.Linear(8, 2), run

    def forward(self, x):
        return self.run(self, x)


SWITCHES = {
    "no_grad": (without_gradient, "switches gradients"),
    "a helper that is decorated": (lambda net, x: net.b(torch.tanh(decorated(net, x))), "switches gradients"),
    "enable_grad": (with_gradient, "switches gradients"),
    "autocast off": (without_autocast, "switches autocast"),
    "autocast on": (with_autocast, "switches autocast"),
    "checkpoint": (
        lambda net, x: net.b(torch.tanh(checkpoint(net.a, x, use_reentrant=False))),
        "checkpoints a part",
    ),
    "a branch": (grad_branch, "asks whether gradients or autocast are on"),
    "a number": (grad_number, "asks whether gradients or autocast are on"),
}


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_call_in_a_forward_that_switches_a_context_is_left_with_the_reason(switch, outer):
    run, reason = SWITCHES[switch]
    model = Net(run)
    plain = copy.deepcopy(model)
    with torch.set_grad_enabled(outer):  # where convert is called does not matter
        report = sc.convert(model)
    assert reason in why(report, "tanh")
    assert "make it a module, nn.Tanh()" in why(report, "tanh")
    x = torch.randn(3, 4)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model(x), plain(x))


def test_a_module_in_such_a_forward_is_converted_for_nothing_is_rewritten():
    model = Net(lambda net, x: net.b(net.act(decorated(net, x))))
    model.act = nn.Tanh()
    assert unchanged(model, torch.randn(3, 4)).converted == ("act",)


def test_contexts_are_as_they_were_after_tracing():
    def state():
        return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = state()
        assert sc.convert(Net(lambda net, x: net.b(torch.tanh(net.a(x))))).converted == ("tanh",)
        sc.convert(Net(with_autocast))
        assert state() == before


def test_a_module_that_such_a_forward_calls_twice_is_one_core():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 2), nn.Tanh()

        def forward(self, x):
            with torch.no_grad():
                h = self.act(x)
            return self.b(self.act(self.a(h)))

    report = sc.convert(Twice(), include="act")
    assert "cannot be rewritten: it switches gradients" in why(report, "act")
