"""The gradient profile, against explicit per-sample gradients; and that measuring it disturbs nothing."""

import math

import pytest
import torch
from core_support.networks import Net
from support.untouched import untouched
from torch import nn
from torch.nn import functional as F

import sigmoidcore as sc
from sigmoidcore import MLP, SigmoidCore, gradient_profile


def small_mlp():
    """Unlike slopes, shifts and widths, in float64."""
    layers = [nn.Linear(5, 6), SigmoidCore(6, alpha=3.0), nn.Linear(6, 4), SigmoidCore(4, centered=True, alpha=0.7)]
    model = nn.Sequential(*layers, nn.Linear(4, 3)).double()
    model[1].set_shift(torch.randn(6))
    return model


def per_sample_sizes(model, inputs, loss_of_outputs):
    """RMS over the samples of the norm of d loss / d x at both cores, one torch.func.grad at a time."""
    squares = [0.0, 0.0]
    for i, sample in enumerate(inputs):
        for core in range(2):

            def rest(x, core=core, i=i):
                return loss_of_outputs(model[1 + 2 * core :](x), i)

            x = model[: 1 + 2 * core](sample).detach()
            squares[core] += float(torch.func.grad(rest)(x).detach().square().sum())
    return [math.sqrt(s / len(inputs)) for s in squares]


def test_with_a_summed_loss_the_sizes_are_those_of_explicit_per_sample_gradients():
    model, x, y = small_mlp(), torch.randn(7, 5).double(), torch.randint(3, (7,))
    profile = gradient_profile(model, x, y, nn.CrossEntropyLoss(reduction="sum"))
    expected = per_sample_sizes(model, x, lambda output, i: F.cross_entropy(output, y[i]))
    assert profile.names == ("1", "3")
    assert profile.sizes.dtype == torch.float64
    assert profile.sizes.tolist() == pytest.approx(expected, rel=1e-12)
    assert profile.spread == pytest.approx(max(expected) / min(expected), rel=1e-12)


def test_without_a_loss_the_sizes_are_those_of_random_signs_whose_mean_is_the_frobenius_size():
    # Of all 2^3 sign vectors the mean square of |J^T c| is |J|_F^2; a large batch comes close to the mean.
    model, x = small_mlp(), torch.randn(4000, 5).double()
    profile = gradient_profile(model, x)
    squares = []
    for core in (1, 3):
        jacobian = torch.func.vmap(torch.func.jacrev(model[core:]))(model[:core](x).detach())
        squares.append(float(jacobian.detach().square().sum((1, 2)).mean().sqrt()))
    assert profile.sizes.tolist() == pytest.approx(squares, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_measures_a_batch_of_one_in_every_dtype(dtype):
    profile = gradient_profile(MLP(5, 8, 3, 2).to(dtype), torch.randn(1, 5, dtype=dtype))
    assert profile.sizes.dtype == torch.float64
    assert bool((profile.sizes > 0).all())


def test_gradients_far_below_1_are_measured_and_not_0():
    # d loss / d x is about 1e-30: a normal number in float32, but its square is not.
    model = MLP(4, 8, 2, 2)
    usual = gradient_profile(model, torch.ones(3, 4), 1.0, lambda output, scale: output.sum() * scale)
    small = gradient_profile(model, torch.ones(3, 4), 1e-30, lambda output, scale: output.sum() * scale)
    torch.testing.assert_close(small.sizes, usual.sizes * 1e-30, rtol=1e-5, atol=0)


class ResidualSum(nn.Module):
    """h + core(linear(h)), three times."""

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.cores = nn.ModuleList(SigmoidCore(4, centered=True) for _ in range(3))

    def forward(self, h):
        for linear, core in zip(self.linears, self.cores, strict=True):
            x = linear(h)
            self.seen.append(x)
            h = h + core(x)
        return h


class TwoBranches(nn.Module):
    """Two cores side by side, and a third that takes their product, past which its preactivation goes on, too.

    Only the gradient that comes back through a core is its own.
    """

    def __init__(self):
        super().__init__()
        self.left, self.right, self.end = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.cores = nn.ModuleList(SigmoidCore(4) for _ in range(3))

    def forward(self, h):
        a, b = self.left(h), self.right(h)
        y = self.cores[0](a) * self.cores[1](b)
        c = self.end(y)
        read = c.view_as(c)
        self.seen += [a, b, read]
        return self.cores[2](read) + c


@pytest.mark.parametrize("make", [ResidualSum, TwoBranches])
def test_in_a_graph_the_sizes_are_those_of_autograds_gradient_at_each_cores_input(make):
    model, x = make().double(), torch.randn(6, 4).double()
    model.seen = []
    gradients = torch.autograd.grad(model(x).square().sum(), model.seen)
    profile = gradient_profile(model, x, 0, lambda output, _: output.square().sum())
    assert profile.names == ("cores.0", "cores.1", "cores.2")
    expected = [math.sqrt(float(g.square().sum()) / 6) for g in gradients]
    assert profile.sizes.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_core_whose_output_the_loss_does_not_use_has_size_0_and_the_spread_is_inf():
    class Unused(TwoBranches):
        def forward(self, h):
            self.cores[2](self.right(h))
            return self.cores[0](self.left(h))

    profile = gradient_profile(Unused(), torch.randn(6, 4))
    assert profile.sizes[profile.names.index("cores.2")] == 0
    assert profile.spread == math.inf


def test_frozen_weights_do_not_hide_the_gradient():
    model, x = small_mlp(), torch.randn(7, 5).double()
    expected = gradient_profile(model, x)
    model.requires_grad_(False)
    torch.testing.assert_close(gradient_profile(model, x).sizes, expected.sizes)


def test_it_measures_under_no_grad():
    model, x = small_mlp(), torch.randn(7, 5).double()
    expected = gradient_profile(model, x)
    with torch.no_grad():
        measured = gradient_profile(model, x)
    assert torch.equal(measured.sizes, expected.sizes)


def test_weights_gradients_buffers_modes_hooks_and_the_random_generator_are_as_they_were():
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), SigmoidCore(6), nn.Dropout(0.5), nn.Linear(6, 6), SigmoidCore(6)
    )
    model[3].eval()
    model[4].weight.grad = torch.randn(6, 6)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    with untouched(model):
        gradient_profile(model, x)
    assert x.grad is None
    assert not x.requires_grad


class Detached(nn.Sequential):
    def forward(self, x):
        return super().forward(x).detach()


TWICE = SigmoidCore(5)
X = torch.zeros(3, 5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(5, 5), nn.Sigmoid()), "no cores, only Linear, Sigmoid: make cores of its hidden sig"),
        (nn.Sequential(nn.Linear(5, 5), TWICE, nn.Linear(5, 5), TWICE), "core '1' runs 2 times a forward pass: give"),
        (
            Net(lambda m, x: m.linear(x), linear=nn.Linear(5, 5), core=SigmoidCore(5)),
            "no core of the model ran in the forward pass: check that forward uses them",
        ),
        (Detached(nn.Linear(5, 5), SigmoidCore(5)), "no gradient comes back from the outputs to the cores"),
    ],
)
def test_a_model_that_cannot_be_measured_is_an_error_that_says_why(model, message):
    with pytest.raises(ValueError, match=message):
        gradient_profile(model, X)


@pytest.mark.parametrize(
    "verb",
    [
        lambda model: sc.prepare(model, torch.zeros(2, 2)),
        lambda model: sc.calibrate(model, torch.zeros(2, 2)),
        lambda model: sc.gradient_profile(model, torch.zeros(2, 2)),
        sc.depth_scaled_lr,
        sc.fold,
        sc.convert,
    ],
    ids=["prepare", "calibrate", "gradient_profile", "depth_scaled_lr", "fold", "convert"],
)
def test_parameters_or_a_class_in_the_place_of_a_model_are_refused_with_the_remedy(verb):
    with pytest.raises(TypeError, match=r"model is the class Linear: give an instance, Linear\(\.\.\.\)"):
        verb(nn.Linear)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got generator: give the model itself"):
        verb(nn.Linear(2, 2).parameters())
