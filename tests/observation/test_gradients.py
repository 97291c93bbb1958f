"""The gradient observer: which passes count, and what a pass shows."""

import gc

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sigmoidcore import MLP, SigmoidCore
from sigmoidcore.gain import mean_relative_slope, norms
from sigmoidcore.observation.gradients import GradientObserver, mean_relative_slopes
from sigmoidcore.observation.graph import consumers

ROWS = 37
"""A number that no other tensor has for its rows."""


@pytest.fixture(params=[True, False], ids=["hidden layers as one", "module by module"])
def as_one(request):
    return request.param


@pytest.fixture
def model(as_one):
    model = MLP(8, 16, 3, 3)
    return model if as_one else nn.Sequential(*model)


def observer_of(model):
    cores = {name: m for name, m in model.named_modules() if isinstance(m, SigmoidCore)}
    return GradientObserver(cores, model.parameters)


@pytest.fixture
def observer(model):
    observer = observer_of(model)
    observer.attach()
    yield observer
    observer.detach()


def forward_and_backward(model):
    model(torch.randn(ROWS, 8)).square().mean().backward()


def forward_and_backward_of(function, x):
    function(x).square().mean().backward()


def test_a_core_that_no_gradient_came_back_to_has_an_empty_list(model, observer):
    model(torch.randn(ROWS, 8))
    assert observer.counted() == {"1": [], "3": [], "5": []}


@pytest.mark.parametrize("what", ["preactivations", "outputs"])
def test_values_that_were_changed_in_place_are_known_and_copied_when_asked(model, observer, what):
    true = []

    class Adds(nn.Module):
        def forward(self, x):
            y = model[1](x)
            true[:] = x.clone(), y.clone()
            (x if what == "preactivations" else y).add_(1)
            return y

    layers = nn.Sequential(model[0], Adds(), *model[2:])
    forward_and_backward(layers)
    assert [seen[0].changed for seen in observer.counted().values()] == [True, False, False]
    observer.detach()
    observer.copy_values("1")
    observer.attach()
    forward_and_backward(layers)
    seen = observer.counted()["1"][0]
    assert not seen.changed
    torch.testing.assert_close(seen.x, true[0].detach())
    assert torch.equal(seen.output(), true[1])


def test_a_core_right_after_the_input_and_one_after_frozen_layers_are_seen():
    model = nn.Sequential(SigmoidCore(8), nn.Linear(8, 8), nn.Linear(8, 4), SigmoidCore(4), nn.Linear(4, 1))
    model[2].requires_grad_(False)
    observer = GradientObserver({"0": model[0], "3": model[3]}, model.parameters)
    observer.attach()
    model(torch.randn(5, 8, requires_grad=True)).sum().backward()
    assert [len(passes) for passes in observer.counted().values()] == [1, 1]
    observer.detach()


@pytest.mark.parametrize("options", [{}, {"centered": True}, {"scale": 3.0}, {"centered": True, "scale": 2.0}])
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("features", "dim", "shape"), [(6, -1, (9, 6)), (6, 1, (9, 6, 4)), (None, -1, (9, 6))])
def test_the_gradient_and_the_mean_relative_slope_are_those_of_autograd_and_of_the_formula(
    options, trainable, features, dim, shape
):
    core = SigmoidCore(features, dim=dim, alpha=1.5, trainable=trainable, **options).double()
    core.set_shift(torch.randn(core.shift.shape))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    observer = GradientObserver({"core": core}, lambda: [x])
    observer.attach()
    h = 2 * x
    (core(h).square().sum() + 10 * h.sum()).backward()
    (seen,) = observer.counted()["core"]
    own = h.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(core(own).square().sum(), own)
    torch.testing.assert_close(norms(seen.gradients()), torch.linalg.vector_norm(gradient).reshape(1))
    alpha, shift = core.align(own)
    z = (alpha * (own - shift)).detach()
    expected = mean_relative_slope(z.reshape(-1, 1) if features is None else z.movedim(dim, -1))
    torch.testing.assert_close(mean_relative_slopes([seen]), [expected])
    rows = h.detach() if features is None else h.detach().movedim(dim, -1)
    torch.testing.assert_close(seen.x, rows.reshape(-1, len(expected)))
    assert seen.rows * len(expected) == x.numel()
    observer.detach()


class Graph(nn.Module):
    """Cores a to f: a feeds b and c, these are joined for d, d goes through a LayerNorm to e, and past it to f."""

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abcdef"})
        self.cores = nn.ModuleDict({name: SigmoidCore(4, centered=True) for name in "abcdef"})
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        def layer(name, x):
            return self.cores[name](self.linears[name](x))

        a = layer("a", x)
        d = layer("d", layer("b", a) * 2 + layer("c", torch.relu(a)))
        return layer("e", self.norm(d)) + layer("f", d + self.norm(d))


def consumers_of(observer):
    """The consumers of every core, each with whether always through a normalisation."""
    return {
        name: {k: link.normalised for k, link in fed.items()} for name, fed in consumers(observer.counted()).items()
    }


def test_consumers_are_the_cores_that_a_core_feeds_and_whether_always_through_a_normalisation():
    model = Graph()
    observer = GradientObserver(dict(model.cores.items()), model.parameters)
    observer.attach()
    for _ in range(2):  # micro-batches
        forward_and_backward_of(model, torch.randn(5, 4))
    assert consumers_of(observer) == {
        "a": {"b": False, "c": False},
        "b": {"d": False},
        "c": {"d": False},
        "d": {"e": True, "f": False},
        "e": {},
        "f": {},
    }
    observer.detach()


def test_in_a_residual_stream_a_core_feeds_all_that_read_the_stream_after_it():
    layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), SigmoidCore(4), nn.Linear(4, 4)) for _ in range(4))

    def forward(x):
        for layer in layers:
            x = x + layer(x)
        return x

    observer = GradientObserver({str(i): layer[1] for i, layer in enumerate(layers)}, layers.parameters)
    observer.attach()
    forward_and_backward_of(forward, torch.randn(5, 4))
    expected = {str(i): {str(k): False for k in range(i + 1, 4)} for i in range(4)}
    assert consumers_of(observer) == expected
    observer.detach()


def test_a_pass_inside_a_backward_pass_is_known(model, observer):
    x = torch.randn(ROWS, 8, requires_grad=True)
    checkpoint(model, x, use_reentrant=True).square().mean().backward()
    assert [seen[0].again for seen in observer.counted().values()] == [True, True, True]
    observer.detach()
    observer.attach()
    checkpoint(model, x, use_reentrant=False).square().mean().backward()
    assert [seen[0].again for seen in observer.counted().values()] == [False, False, False]


def test_the_number_of_samples_is_that_of_the_core_that_ran_first():
    model = nn.ModuleList([nn.Linear(8, 6), SigmoidCore(6), nn.Linear(6, 4), SigmoidCore(4)])
    observer = GradientObserver({"1": model[1], "3": model[3]}, model.parameters)
    observer.attach()
    h = model[1](model[0](torch.randn(5, 7, 8)))
    model[3](model[2](h.flatten(0, 1))).square().mean().backward()
    assert [seen[0].samples for seen in observer.counted().values()] == [5, 5]
    observer.detach()


def test_two_half_precision_gradients_through_one_graph_do_not_overflow():
    core = SigmoidCore(4, alpha=16.0)
    observer = GradientObserver({"core": core}, list)
    observer.attach()
    y = core(torch.zeros(2, 4, dtype=torch.float16, requires_grad=True))
    for _ in range(2):
        y.backward(torch.full_like(y, 15_000.0), retain_graph=True)  # 60,000 at x; float16 ends at 65,504
    (seen,) = observer.counted()["core"]
    assert norms(seen.gradients()).item() == pytest.approx(120_000 * 8**0.5)
    observer.detach()


def test_the_graph_of_a_very_deep_network_is_freed_without_recursion():
    model = MLP(2, 2, 3_000, 2)  # recursion through so many layers would overflow the stack
    observer = observer_of(model)
    observer.attach()
    model(torch.randn(3, 2))
    gc.collect()
    assert sum(map(len, observer.counted().values())) == 0
    model(torch.randn(3, 2)).square().mean().backward()
    gc.collect()
    assert sum(map(len, observer.counted().values())) == 3_000
    observer.detach()
