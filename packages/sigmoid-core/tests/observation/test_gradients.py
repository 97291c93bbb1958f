"""The gradient observer: which passes count, and what a pass shows."""

import gc

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sigmoidcore import MLP, SigmoidCore
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.gradients import GradientObserver, gradient_moments, gradient_sizes, relative_slopes
from sigmoidcore.observation.layer_observer import LayerObserver
from unstuck.observation.sizes import norms


@pytest.fixture
def observed():
    """Attaches an observer to the cores of a model."""
    observers = []

    def attach(model):
        cores = {name: m for name, m in model.named_modules() if isinstance(m, SigmoidCore)}
        observers.append(GradientObserver(cores, model.parameters))
        observers[-1].attach()
        return observers[-1]

    yield attach
    for observer in observers:
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
    torch.testing.assert_close(relative_slopes([[seen]], x.device), [expected])
    rows = h.detach() if features is None else h.detach().movedim(dim, -1)
    torch.testing.assert_close(seen.x, rows.reshape(-1, len(expected)))
    assert seen.rows * len(expected) == x.numel()
    observer.detach()


@pytest.mark.parametrize("model", [MLP(8, 16, 3, 3), nn.Sequential(*MLP(8, 16, 3, 3))], ids=["as one", "one by one"])
def test_a_pass_inside_a_backward_pass_is_known(model, observed):
    observer, x = observed(model), torch.randn(9, 8, requires_grad=True)
    checkpoint(model, x, use_reentrant=True).square().mean().backward()
    assert [seen[0].again for seen in observer.counted().values()] == [True, True, True]
    observer.detach()
    observer.attach()
    checkpoint(model, x, use_reentrant=False).square().mean().backward()
    assert [seen[0].again for seen in observer.counted().values()] == [False, False, False]


@pytest.mark.parametrize("fused", [True, False])
def test_the_moments_tell_how_many_samples_make_the_gradient(observed, fused):
    model = MLP(8, 16, 3, 2)
    observer = observed(model if fused else nn.Sequential(*model))
    model = model if fused else nn.Sequential(*model)
    x = torch.randn(1, 8).repeat(20, 1)
    for weights in (torch.ones(20), torch.eye(20)[3]):  # two micro-batches: 20 alike, and one alone
        (model(x).sum(1) * weights).sum().backward()
    passes = observer.counted()
    squares, fourth = gradient_moments(passes.values(), gradient_sizes(passes.values()), torch.device("cpu"))
    torch.testing.assert_close(squares.square() / fourth, torch.full((3,), 21.0, dtype=torch.float64))


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


def test_the_graph_of_a_very_deep_network_is_freed_without_recursion(observed):
    model = MLP(2, 2, 2_000, 2)  # recursion through so many layers would overflow the stack
    observer = observed(model)
    model(torch.randn(3, 2))
    model(torch.randn(3, 2)).square().mean().backward()
    gc.collect()
    assert sum(map(len, observer.counted().values())) == 2_000


class Doubles(LayerObserver):
    """Doubles what a layer reads and halves what it makes."""

    def reads(self, name, layer, x):
        return 2 * x

    def makes(self, name, layer, args, kwargs, output):
        return output / 2


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_layer_observer_may_replace_inputs_and_outputs_of_a_layer(by_keyword):
    core, x = nn.Sigmoid(), torch.randn(5)
    with Doubles({"core": core}):
        y = core(input=x) if by_keyword else core(x)
    assert torch.equal(y, torch.sigmoid(2 * x) / 2)
