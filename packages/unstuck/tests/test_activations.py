"""How open a neuron is, against autograd of the very function."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.measuring import measured

from unstuck.measure.activations import ACTIVATIONS
from unstuck.step.node import name_of as function_name

MODULES = {
    "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "softsign": nn.Softsign(), "hardsigmoid": nn.Hardsigmoid(),
    "hardtanh": nn.Hardtanh(), "hardtanh, other bounds": nn.Hardtanh(-0.3, 2.5), "relu6": nn.ReLU6(),
    "relu": nn.ReLU(), "leaky relu": nn.LeakyReLU(), "leaky relu, steeper below": nn.LeakyReLU(3.0),
    "rrelu": nn.RReLU(0.2, 0.4).eval(), "prelu": nn.PReLU(), "elu": nn.ELU(), "elu, alpha 0.4": nn.ELU(0.4),
    "celu": nn.CELU(), "celu, alpha 0.5": nn.CELU(0.5), "selu": nn.SELU(), "softplus": nn.Softplus(),
    "softplus, linear above 1": nn.Softplus(2.0, 1.0), "log sigmoid": nn.LogSigmoid(), "gelu": nn.GELU(),
    "gelu, by tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "mish": nn.Mish(), "hardswish": nn.Hardswish(),
    "threshold": nn.Threshold(0.7, 20.0), "threshold, below 0": nn.Threshold(-1.5, 0.0),
    "hardshrink": nn.Hardshrink(0.75), "softshrink": nn.Softshrink(0.75), "tanhshrink": nn.Tanhshrink(),
}  # fmt: skip
CALLS = {
    "torch.special.expit": torch.special.expit,
    "Tensor.sigmoid": torch.Tensor.sigmoid,
    "Tensor.tanh": torch.Tensor.tanh,
    "Tensor.relu": torch.Tensor.relu,
    "torch.celu, by name": functools.partial(torch.celu, alpha=0.5),
    "functional.elu, by position": lambda x: functional.elu(x, 0.5),
    "functional.elu, by name": lambda x: functional.elu(input=x, alpha=0.5),
    "functional.leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "functional.hardtanh": lambda x: functional.hardtanh(x, -2.0, 0.5),
    "functional.hardtanh, by name": lambda x: functional.hardtanh(x, max_val=0.5),
    "functional.softplus": lambda x: functional.softplus(x, 2.0),
    "functional.threshold, by name": lambda x: functional.threshold(x, threshold=0.1, value=0.0),
    "functional.prelu": lambda x: functional.prelu(x, torch.tensor([0.1, 0.9], dtype=x.dtype)),
}
IN_PLACE = {
    "sigmoid_": torch.sigmoid_, "tanh_": torch.Tensor.tanh_, "elu_": lambda x: functional.elu_(x, 0.5),
    "leaky_relu_": lambda x: functional.leaky_relu_(x, 0.2), "nn.SiLU": nn.SiLU(inplace=True),
    "nn.Hardswish": nn.Hardswish(inplace=True), "nn.CELU": nn.CELU(2.0, inplace=True),
    "nn.Threshold": nn.Threshold(0.3, 1.0, inplace=True),
}  # fmt: skip
# Not at the kinks themselves, where a derivative is a convention.
GRID = torch.linspace(-9, 9, 18 * 64 + 1, dtype=torch.float64)[:, None] + torch.tensor([0.00037, 0.0031])


def derivative(function, x):
    """Of the function at every point, by autograd."""
    x = x.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(x.clone()).sum(), x)
    return slope


def steepest(function):
    """The largest derivative anywhere, in float64, on a grid that is finer and wider than the test's."""
    x = torch.cat([torch.linspace(-12, 12, 48_001, dtype=torch.float64), torch.tensor([-60.0, 60.0, 3 - 1e-6])])
    x = x[:, None].expand(-1, 2)
    return derivative(function, x).abs().amax()


class One(nn.Module):
    """A layer and an activation; keeps what the activation read."""

    def __init__(self, function):
        super().__init__()
        self.at = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, x):
        return self.function(x * self.at)


def slopes_seen(function, x):
    """The mean relative slope of a column of `x`, from the probe: one neuron."""
    model = One(function).to(x.dtype)
    rows = [row for row in measured(model, x).layers if row.role == "activation"]
    assert len(rows) == 1
    return rows[0]


def tolerance(kind, dtype=torch.float64):
    """How precise a slope is; GELU by tanh is taken for GELU."""
    return {torch.float64: 1e-6, torch.bfloat16: 1.6e-2}[dtype] + 2e-3 * ("by tanh" in kind)


def in_dtype(function, dtype):
    return function.to(dtype) if isinstance(function, nn.Module) else function


@pytest.mark.parametrize("kind", [*MODULES, *CALLS])
def test_the_mean_relative_slope_equals_that_of_autograd(kind):
    function = in_dtype({**MODULES, **CALLS}[kind], torch.float64)
    exact = derivative(function, GRID).abs() / steepest(function)
    row = slopes_seen(function, GRID)
    assert row.neurons == 2
    assert row.rows == len(GRID)
    assert row.relative_slope == pytest.approx(float(exact.mean()), abs=tolerance(kind))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", MODULES)
def test_the_relative_slope_equals_that_of_autograd_at_every_point(kind, dtype):
    if (kind, dtype) == ("hardswish", torch.bfloat16) and torch.__version__ < "2.8":
        pytest.skip("PyTorch before 2.8 gives hardswish another slope at its corners in bfloat16")
    function = in_dtype(MODULES[kind], dtype)
    x = GRID.to(dtype)
    called = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if function_name(func) in ACTIVATIONS:
                called.append((function_name(func), args, kwargs or {}))
            return func(*args, **kwargs or {})

    with Watch():
        y = function(x)
    ((name, args, kwargs),) = called
    activation = ACTIVATIONS[name]
    read = y if activation.by_output else x
    seen = activation.relative_slopes(read[None], activation.chosen(args[1:], kwargs))[0]
    largest = steepest(in_dtype(function, torch.float64))
    exact = derivative(in_dtype(function, dtype), x).abs().double() / largest
    torch.testing.assert_close(seen.double(), exact, rtol=0, atol=tolerance(kind, dtype))
    assert float(seen.max()) <= 1 + 1e-6


@pytest.mark.parametrize("kind", IN_PLACE)
def test_an_in_place_activation_has_the_slopes_of_its_input(kind):
    function = in_dtype(IN_PLACE[kind], torch.float64)
    exact = derivative(function, GRID).abs() / steepest(function)
    assert slopes_seen(function, GRID).relative_slope == pytest.approx(float(exact.mean()), abs=1e-6)


@pytest.mark.parametrize("kind", ["relu", "relu6", "hardtanh", "hardswish", "threshold"])
def test_a_neuron_is_dead_if_all_samples_are_in_the_flat_part(kind):
    x = torch.full((64, 3), -50.0)
    x[17, 1] = x[:, 2] = 0.9
    assert slopes_seen(MODULES[kind], x).dead == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "softsign", "gelu", "silu", "mish"])
def test_an_activation_without_a_flat_part_has_saturated_neurons_and_no_dead_ones(kind):
    x = torch.full((64, 4), -80.0)
    x[:, 3] = 0.7
    row = slopes_seen(MODULES[kind], x)
    assert row.saturated == 0.75
    assert row.dead is None
    assert row.slopes[0] == 3
    assert sum(row.slopes) == 4


@pytest.mark.parametrize(
    "kind",
    ["relu", "leaky relu", "threshold", "prelu", "elu", "celu", "selu", "softplus", "log sigmoid"],
)
def test_activations_that_work_at_their_flat_end_have_no_saturated_neurons(kind):
    assert slopes_seen(MODULES[kind], torch.full((64, 4), -80.0)).saturated is None
