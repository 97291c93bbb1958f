"""Numbers that are not finite, and numbers of few bits."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from catalogue.case import Case, Problem, classes, scaled, sgd, train

cross_entropy = nn.functional.cross_entropy


def three_layers(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """The Linear layers are "0", "2" and "4"."""
    layers = [nn.Linear(32, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 10)]
    for linear in layers[::2]:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*layers)


class Between(nn.Module):
    """A step between two Linear layers that may leave the range of its numbers."""

    def __init__(self, step: Callable[[Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.before = nn.Linear(32, 64, bias=bias)
        self.after = nn.Linear(64, 10)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.step(self.before(x)))


def between(step: Callable[[Tensor], Tensor], zero: int = 0) -> Problem:
    """The first `zero` samples are all 0, and so is what `before` makes of them."""
    inputs, targets = classes()
    inputs[:zero] = 0
    return Between(step, bias=False), inputs, targets, cross_entropy


def unit_length(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-6)


def unit_length_safely(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()


def exponential(x: Tensor) -> Tensor:
    return torch.exp(60 * x)


def softplus_exponential(x: Tensor) -> Tensor:
    return torch.exp(-nn.functional.softplus(x))


def log_of_softmax(factor: float, floor: float) -> Problem:
    """Cross-entropy written out: the log of a probability that became 0 is minus infinity, and times 0 it is NaN."""
    inputs, targets = classes()
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(dim=1))
    scaled(model[2], factor)
    wanted = nn.functional.one_hot(targets, 10).float()
    return model, inputs, wanted, lambda p, wanted: -(wanted * torch.log(p + floor)).sum(1).mean()


def inputs_not_finite() -> Problem:
    inputs, targets = classes()
    inputs[3, 5] = float("nan")
    return three_layers(), inputs, targets, cross_entropy


def infinite_bias() -> Problem:
    model = three_layers(nn.Tanh)
    with torch.no_grad():
        model[2].bias[0] = float("inf")
    return model, *classes(), cross_entropy


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs.float(), targets)


def in_dtype(dtype: torch.dtype, input_scale: float = 1.0, loss_scale: float = 1.0) -> Problem:
    inputs, targets = classes()
    model = three_layers().to(dtype)
    return model, (input_scale * inputs).to(dtype), targets, lambda o, t: loss_scale * loss_of(o, t)


def overflowing_half() -> Problem:
    """Weights of layer "2" such that its sums exceed 65,504, the largest number of float16."""
    model, inputs, targets, loss_fn = in_dtype(torch.float16)
    scaled(model[2], 2e4)
    return model, inputs, targets, loss_fn


def loud_half(layer: int, largest: float) -> Problem:
    """The largest output of a layer is this, and the next layer makes up for it."""
    model, inputs, targets, loss_fn = in_dtype(torch.float16)
    with torch.no_grad():
        factor = largest / float(model[: layer + 1](inputs).abs().max())
    scaled(model[layer], factor)
    scaled(model[layer + 2], 1 / factor)
    return model, inputs, targets, loss_fn


class Autocast(nn.Module):
    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype):
            return self.model(x)


def autocast(dtype: torch.dtype) -> Problem:
    return Autocast(three_layers(), dtype), *classes(), loss_of


def diverged() -> Problem:
    """Four steps of gradient descent at a rate of 1e6 on squared errors: the weights are infinite, then NaN."""
    inputs, _ = classes()
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    problem: Problem = (model, inputs, inputs, nn.functional.mse_loss)
    train(problem, torch.optim.SGD(model.parameters(), lr=1e6), 12)
    return problem


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def large_targets(factor: float) -> Problem:
    """Prices in cents, which the model returns: a loss of 1e10 is not a failure."""
    inputs, _ = classes()
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
    model = nn.Sequential(*model, Scaled(factor))
    return model, inputs, factor * (1 + inputs[:, :1]), nn.functional.mse_loss


BROKEN = (
    Case(
        "root of 0",
        "two samples are all 0, and the derivative of the root of 0 is infinite",
        partial(between, unit_length, 2),
        ("US401",),
        ("before", "before.weight"),
    ),
    Case(
        "exp overflows",
        "exp of more than 88 is infinite in float32",
        partial(between, exponential),
        ("US401",),
        ("after",),
    ),
    Case(
        "log of 0",
        "a probability that became 0, in a cross-entropy written out",
        partial(log_of_softmax, 300.0, 0.0),
        ("US401",),
        ("3", "2", "2.weight", "2.bias"),
    ),
    Case("NaN in the inputs", "one missing value", inputs_not_finite, ("US401",), ()),
    Case("infinite bias", "one number of layer 2", infinite_bias, ("US401",), ("2", "2.bias")),
    Case(
        "float16 overflows in layer 2",
        "sums beyond 65,504",
        overflowing_half,
        ("US401",),
        ("2",),
        sgd(1e-3),
    ),
    Case(
        "diverged",
        "12 steps at a rate of 1e6 were too much",
        diverged,
        ("US401",),
        ("0", "0.weight", "0.bias"),
        sgd(1e6),
    ),
    Case(
        "float16, all gradients underflow",
        "the mean over many numbers makes gradients below 6e-8, and nobody scales the loss: all are exactly 0",
        partial(in_dtype, torch.float16, loss_scale=1e-6),
        ("US502",),
        ("0", "2", "4", "0.weight", "2.weight", "4.weight"),
        sgd(1e-3),
    ),
)

HEALTHY = (
    Case("root of a little more than 0", "as it should be written", partial(between, unit_length_safely, 2)),
    Case("root of what is never 0", "the same formula, no empty samples", partial(between, unit_length)),
    Case("exp of numbers below 0", "stays within its range", partial(between, softplus_exponential)),
    Case("log of a probability with a floor", "as it should be written", partial(log_of_softmax, 1.0, 1e-8)),
    Case("float64", "many bits", partial(in_dtype, torch.float64)),
    Case("bfloat16", "few bits", partial(in_dtype, torch.bfloat16), optimizer=sgd(1e-2)),
    Case("float16, loss scaled", "few bits", partial(in_dtype, torch.float16, loss_scale=128.0), optimizer=sgd(1e-4)),
    Case("float16, numbers of 5,000", "far from the end", partial(loud_half, 2, 5_000), optimizer=sgd(1e-7)),
    Case("bfloat16 autocast", "few bits in some layers", partial(autocast, torch.bfloat16)),
    Case("targets of 1e5", "a loss of 1e10", partial(large_targets, 1e5)),
)
