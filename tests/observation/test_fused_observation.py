"""A sampled step of hidden layers that are computed as one shows what it shows of them module by module."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sigmoidcore as sc
from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import norms, row_norms
from sigmoidcore.nn import fused
from sigmoidcore.observation.fused import LayerPass
from sigmoidcore.observation.gradients import GradientObserver, Pass, mean_relative_slopes
from sigmoidcore.observation.graph import consumers


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def model(request):
    """6 x 16, with slopes and shifts of every neuron, and a scale."""
    torch.manual_seed(0)
    model = sc.MLP(5, 16, 6, 3, activation=lambda n: SigmoidCore(n, alpha=3.0, centered=True, scale=1.5))
    sc.prepare(model, torch.randn(50, 5))
    for core in cores_of(model).values():
        core.slope.mul_(torch.rand(16) + 0.5)
        core.shift.add_(torch.randn(16))
    return model.to(request.param)


@pytest.fixture
def x(model):
    return torch.randn(2, 10, 5, generator=torch.Generator().manual_seed(1)).to(model[0].weight.dtype)


@pytest.fixture(params=[1, 3 * 10 * 16 * 8, 1 << 24], ids=["layer by layer", "some at a time", "all at once"])
def batch(request, monkeypatch):
    """How many layers are reduced to numbers at once."""
    monkeypatch.setattr(fused, "BATCH", request.param)


def cores_of(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, SigmoidCore)}


def by_modules(model):
    """The same network as an `nn.Sequential`, which calls one module after the other."""
    return nn.Sequential(*copy.deepcopy(model).children())


def backward(loss, **options):
    loss.square().sum().backward(**options)


def one_batch(model, x):
    backward(model(x[0]))


def two_micro_batches(model, x):
    for rows in x:
        backward(model(rows))


def two_passes_and_one_way_back(model, x):
    backward(model(x[0]) + model(x[1]))


def twice_through_a_graph(model, x):
    loss = model(x[0])
    backward(loss, retain_graph=True)
    backward(loss)


def an_older_micro_batch_comes_last(model, x):
    first, second = model(x[0]), model(x[1])
    backward(second)
    backward(first)


def zero_grad_between(model, x):
    one_batch(model, x[1:])
    loss = model(x[0])
    model.zero_grad()
    backward(loss)


def another_loss_by_the_input(model, x):
    read = x[0].requires_grad_()
    loss = model(read)
    torch.autograd.grad(loss.sum(), read, retain_graph=True)
    backward(loss)


def some_parameters(model, x):
    backward(model(x[0]), inputs=[model[6].weight, model[6].bias, model[8].weight, model[8].bias])


def second_derivatives(model, x):
    read = x[0].requires_grad_()
    (gradient,) = torch.autograd.grad(model(read).square().sum(), read, create_graph=True)
    gradient.square().sum().backward()


def checkpointed(model, x):
    backward(checkpoint(model, x[0], use_reentrant=False))


def checkpointed_inside_the_backward_pass(model, x):
    backward(checkpoint(model, x[0].requires_grad_(), use_reentrant=True))


def in_parts(model, x):
    backward(model[7:](model[:7](x[0])))


def more_dimensions(model, x):
    backward(model(x))


STEPS = [
    one_batch,
    two_micro_batches,
    two_passes_and_one_way_back,
    twice_through_a_graph,
    an_older_micro_batch_comes_last,
    zero_grad_between,
    another_loss_by_the_input,
    some_parameters,
    second_derivatives,
    checkpointed,
    checkpointed_inside_the_backward_pass,
    in_parts,
    more_dimensions,
]


def seen(model, step, x):
    """Of every pass of every core: kind, sizes of gradients, slopes, preactivations and numbers; and the consumers."""
    observer = GradientObserver(cores_of(model), model.parameters)
    observer.attach()
    step(model, x.clone())
    passes = observer.counted()
    found = [
        (
            type(p),
            norms(p.gradients()),
            mean_relative_slopes([p])[0],
            p.x,
            (p.rows, p.samples, p.again, p.changed, p.counts),
        )
        for of_core in passes.values()
        for p in of_core
    ]
    counts = [len(of_core) for of_core in passes.values()]
    fed = consumers(passes)
    observer.detach()
    return found, counts, fed


@pytest.mark.parametrize("step", STEPS, ids=[step.__name__ for step in STEPS])
def test_it_shows_what_is_seen_module_by_module(model, x, batch, step):
    mine, counts, fed = seen(model, step, x)
    theirs, expected_counts, expected_fed = seen(by_modules(model), step, x)
    assert counts == expected_counts
    if step is not some_parameters:  # whose graph is not gone through to the end
        assert fed == expected_fed
    tolerance = 2e-5 if x.dtype == torch.float32 else 1e-12
    kinds = {LayerPass} if step is not in_parts else {LayerPass, Pass}
    assert {kind for kind, *_ in mine} == kinds
    for (_, *tensors, numbers), (_, *expected, expected_numbers) in zip(mine, theirs, strict=True):
        assert numbers == expected_numbers
        for a, b in zip(tensors, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def trained(model, batches, **options):
    """An Equalizer's history, and the slopes, after some steps; of the third layer, a third start shut."""
    model[4].bias.data[::3] += 40
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))
    with sc.Equalizer(model, optimizer, **options) as equalizer:
        for x in batches:
            optimizer.zero_grad()
            one_batch(model, x)
            optimizer.step()
    return equalizer.history, torch.stack([core.slope for core in cores_of(model).values()])


@pytest.mark.parametrize("every", [1, 3, "auto"])
def test_the_equalizer_does_with_it_what_it_does_module_by_module(model, every, calls):
    batches = torch.randn(12, 1, 20, 5, generator=torch.Generator().manual_seed(2)).to(model[0].weight.dtype)
    plain = by_modules(model)
    mine, slopes = trained(model, batches, every=every)
    assert len(calls) == len(batches)  # the sampled steps, too
    theirs, expected = trained(plain, batches, every=every)
    assert len(calls) == len(batches)
    tolerance = 1e-3 if slopes.dtype == torch.float32 else 1e-9
    torch.testing.assert_close(slopes, expected, rtol=tolerance, atol=0)
    assert [(s.step, s.neurons) for s in mine] == [(s.step, s.neurons) for s in theirs]
    assert sum(s.neurons for s in mine) >= 5
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.log_sizes, b.log_sizes, rtol=0, atol=tolerance)


def test_a_layer_that_was_changed_since_is_known(model, x):
    observer = GradientObserver(cores_of(model), model.parameters)
    observer.attach()
    one_batch(model, x)
    with torch.no_grad():
        model[4].weight.add_(1)
    assert [passes[0].changed for passes in observer.counted().values()] == [False, False, True, False, False, False]
    observer.detach()


def test_two_that_watch_and_one_that_watches_some_cores_see_them_module_by_module(model, x):
    cores = cores_of(model)
    both = [GradientObserver(cores, model.parameters), GradientObserver(cores, model.parameters)]
    some = GradientObserver({name: cores[name] for name in ("1", "5")}, model.parameters)
    for watching in (both, [some]):
        for observer in watching:
            observer.attach()
        one_batch(model, x)
        for observer in watching:
            assert {type(p) for passes in observer.counted().values() for p in passes} == {Pass}
            assert all(len(passes) == 1 for passes in observer.counted().values())
            observer.detach()


def test_row_norms_neither_overflow_nor_vanish():
    x = torch.tensor([[3e200, 4e200], [3e-200, 4e-200]], dtype=torch.float64)
    torch.testing.assert_close(row_norms(x), torch.tensor([5e200, 5e-200], dtype=torch.float64), rtol=1e-12, atol=0)
