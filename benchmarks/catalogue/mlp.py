"""Networks without structure: Linear layers and activations one after the other."""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

import sigmoidcore as sc
from catalogue.case import Case, Problem, adam, classes, scaled, shifted, train

cross_entropy = nn.functional.cross_entropy
Change = Callable[[nn.Sequential], None]


def he(layer: nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def xavier(layer: nn.Linear) -> None:
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)


def orthogonal(layer: nn.Linear) -> None:
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)


def untouched(layer: nn.Linear) -> None:
    """PyTorch's default."""


def mlp(
    activation: Callable[[], nn.Module],
    depth: int,
    initialise: Callable[[nn.Linear], None] = untouched,
    factor: float = 1.0,
    change: Change | None = None,
    width: int = 64,
    samples: int = 64,
) -> Problem:
    """`depth` hidden layers: the Linear layers are "0", "2", ..., their activations "1", "3", ...; then the head."""
    inputs, targets = classes(samples)
    sizes = [32, *[width] * depth]
    hidden: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        initialise(linear)
        scaled(linear, factor)
        hidden += [linear, activation()]
    model = nn.Sequential(*hidden, nn.Linear(width, 10))
    if change is not None:
        change(model)
    return model, inputs, targets, cross_entropy


def offset(layer: int, by: float) -> Change:
    return lambda model: shifted(model[layer], by)


def scale(layer: int, by: float) -> Change:
    return lambda model: scaled(model[layer], by)


def offset_some(layer: int, share: float, by: float) -> Change:
    def change(model: nn.Sequential) -> None:
        with torch.no_grad():
            model[layer].bias[: round(share * len(model[layer].bias))] += by

    return change


def constant(layer: int, value: float) -> Change:
    def change(model: nn.Sequential) -> None:
        nn.init.constant_(model[layer].weight, value)
        nn.init.zeros_(model[layer].bias)

    return change


def rows_alike(layer: int) -> Change:
    """All rows are copies of the first, which is random."""

    def change(model: nn.Sequential) -> None:
        with torch.no_grad():
            model[layer].weight.copy_(model[layer].weight[:1].clone())
            nn.init.zeros_(model[layer].bias)

    return change


def all_zero(model: nn.Sequential) -> None:
    for parameter in model.parameters():
        nn.init.zeros_(parameter)


def zero_head(model: nn.Sequential) -> None:
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)


def unnormalised(activation: Callable[[], nn.Module]) -> Problem:
    model, inputs, targets, loss_fn = mlp(activation, 4, xavier)
    return model, (127 + 50 * inputs).clamp(0, 255), targets, loss_fn


def far_off(by: float, activation: Callable[[], nn.Module] = nn.ReLU, first: nn.Module | None = None) -> Problem:
    """All inputs have the same large part."""
    model, inputs, targets, loss_fn = mlp(activation, 2)
    return model if first is None else nn.Sequential(first, *model), inputs + by, targets, loss_fn


def too_large_a_step() -> Problem:
    """One step at a rate of 10 towards targets far below: it takes all neurons of the last hidden layer below 0."""
    inputs, _ = classes()
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    with torch.no_grad():
        model[4].weight.abs_()
    problem: Problem = (model, inputs, -10 + inputs[:, :1], nn.functional.mse_loss)
    train(problem, torch.optim.SGD(model[2].parameters(), lr=10.0), 1)
    return problem


def unit_variance(depth: int) -> Problem:
    """Scales each layer, from one batch, until the standard deviation of its output is 1, as LSUV does."""
    model, inputs, targets, loss_fn = mlp(nn.Sigmoid, depth, orthogonal)
    with torch.no_grad():
        x = inputs
        for linear, activation in zip(model[:-1:2], model[1::2], strict=True):
            scaled(linear, float(1 / linear(x).std()))
            x = activation(linear(x))
    return model, inputs, targets, loss_fn


def trained(problem: Callable[[], Problem], steps: int, lr: float = 3e-3) -> Problem:
    made = problem()
    train(made, torch.optim.Adam(made[0].parameters(), lr=lr), steps)
    return made


def prepared(depth: int) -> Problem:
    inputs, targets = classes(100)
    model = sc.MLP(32, 64, depth, 10)
    sc.prepare(model, inputs, targets=targets, loss_fn=cross_entropy)
    return model, inputs, targets, cross_entropy


def pictured(loss_scale: float) -> Problem:
    model, inputs, targets, _ = mlp(nn.ReLU, 4, he)
    return model, inputs, targets, lambda outputs, targets: loss_scale * cross_entropy(outputs, targets)


def autoencoder() -> Problem:
    inputs, _ = classes()
    sizes = [32, 64, 2, 64]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, 32)), inputs, inputs, nn.functional.mse_loss


def frozen_trunk() -> Problem:
    problem = mlp(nn.ReLU, 3, he)
    problem[0][:-1].requires_grad_(False)
    return problem


def field() -> Problem:
    """A function of one input, fitted by a small tanh network."""
    x = torch.linspace(-1, 1, 100)[:, None]
    model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    return model, x, torch.sin(3 * x), nn.functional.mse_loss


def normalised(activation: Callable[[], nn.Module], norm: Callable[[int], nn.Module], depth: int) -> Problem:
    layers: list[nn.Module] = [nn.Linear(32, 64)]
    for _ in range(depth):
        layers += [norm(64), activation(), nn.Linear(64, 64)]
    return nn.Sequential(*layers, activation(), nn.Linear(64, 10)), *classes(), cross_entropy


BROKEN = (
    *(
        Case(
            f"sigmoid, depth {depth}",
            "plain sigmoids and PyTorch's default weights: each layer takes six sevenths of the gradient",
            partial(mlp, nn.Sigmoid, depth),
            ("US101",),
            ("0",),
        )
        for depth in (10, 30, 100)
    ),
    Case("tanh, weights x 0.3, depth 20", "0.3^20", partial(mlp, nn.Tanh, 20, xavier, 0.3), ("US101",), ("0",)),
    Case("ReLU, weights x 0.5, depth 30", "0.5^30", partial(mlp, nn.ReLU, 30, he, 0.5), ("US101",), ("0",)),
    Case(
        "sigmoid, depth 1,000",
        "as depth 10; from layer 950 down the gradient is 0 in float32",
        partial(mlp, nn.Sigmoid, 1000, width=16),
        ("US101",),
        ("0",),
        adam(3e-5),
        slow=True,
    ),
    Case(
        "all weights are 0",
        "no product of two layers is ever other than 0: only the last bias learns",
        partial(mlp, nn.ReLU, 3, change=all_zero),
        ("US502",),
        tuple(f"{i}.weight" for i in (0, 2, 4, 6)),
    ),
    Case(
        "tanh, weights x 1e-6 in layer 4 of 8",
        "as after a weight decay that is far too strong: layer 3 and all before it get a millionth of the gradient",
        partial(mlp, nn.Tanh, 8, xavier, change=scale(6, 1e-6)),
        ("US101",),
        ("4", "6"),
    ),
    Case("ReLU, weights x 3, depth 30", "3^30 = 2e14", partial(mlp, nn.ReLU, 30, he, 3.0), ("US102",), ("0",)),
    Case("no activation, x 2, depth 40", "2^40", partial(mlp, nn.Identity, 40, orthogonal, 2.0), ("US102",), ("0",)),
    Case(
        "tanh, layer 5 of 10 saturated by offset",
        "bias + 6: its tanh says 1 for every input",
        partial(mlp, nn.Tanh, 10, xavier, change=offset(8, 6.0)),
        ("US201",),
        ("9",),
    ),
    Case(
        "sigmoid, layer 2 of 3 saturated by offset",
        "bias - 12",
        partial(mlp, nn.Sigmoid, 3, xavier, change=offset(2, -12.0)),
        ("US201",),
        ("3",),
    ),
    Case(
        "tanh, layer 4 of 8 saturated by scale",
        "weights x 300",
        partial(mlp, nn.Tanh, 8, xavier, change=scale(6, 300.0)),
        ("US201",),
        ("7",),
    ),
    Case("tanh, inputs 0 to 255", "not normalised", partial(unnormalised, nn.Tanh), ("US201",), ("1",)),
    Case(
        "sigmoid, inputs 0 to 255",
        "inputs that nobody normalised",
        partial(unnormalised, nn.Sigmoid),
        ("US201",),
        ("1",),
    ),
    Case(
        "ReLU, layer 3 of 6 dead by offset",
        "bias - 10: its ReLU says 0 for every input",
        partial(mlp, nn.ReLU, 6, he, change=offset(4, -10.0)),
        ("US202",),
        ("5",),
    ),
    Case(
        "ReLU, 95 % of layer 2 of 4 dead",
        "bias - 30 in 95 % of the neurons",
        partial(mlp, nn.ReLU, 4, he, change=offset_some(2, 0.95, -30.0)),
        ("US202",),
        ("3",),
    ),
    Case(
        "ReLU, layer 2 of 2 killed by a step",
        "one step of gradient descent at a rate of 10 took it below 0 for every input",
        too_large_a_step,
        ("US202",),
        ("3",),
    ),
    Case(
        "sigmoid, unit variance by scaling, depth 30",
        "layers scaled until the standard deviation is 1: it is one between neurons, all samples become the same",
        partial(unit_variance, 30),
        ("US203", "US101"),
        ("0", *(str(i) for i in range(40, 61))),
    ),
    Case(
        "ReLU, layer 3 of 5 at one point",
        "bias + 100,000 beside signals of size 1",
        partial(mlp, nn.ReLU, 5, he, change=offset(4, 1e5)),
        ("US203",),
        ("4", "5"),
    ),
    Case(
        "constant weights in layer 2 of 4",
        "all of its neurons compute, and learn, the same",
        partial(mlp, nn.ReLU, 4, he, change=constant(2, 0.05)),
        ("US503",),
        ("2.weight",),
    ),
    Case(
        "tanh, one row for all neurons of layer 1",
        "all of its neurons compute, and learn, the same",
        partial(mlp, nn.Tanh, 3, xavier, change=rows_alike(0)),
        ("US503",),
        ("0.weight",),
    ),
    Case(
        "constant weights in the last hidden layer",
        "all of its neurons compute, and learn, the same",
        partial(mlp, nn.Sigmoid, 2, xavier, change=constant(2, -0.1)),
        ("US503",),
        ("2.weight",),
    ),
)

HEALTHY = (
    Case("inputs + 1,000 before a BatchNorm", "it takes them away", lambda: far_off(1e3, first=nn.BatchNorm1d(32))),
    Case("inputs + 10", "samples differ by a tenth of their size", partial(far_off, 10.0)),
    Case("ReLU, default weights, depth 9", "a level of 3e-4, and it learns", partial(mlp, nn.ReLU, 9)),
    Case("sigmoid, depth 4", "a level of 4e-4, and it learns", partial(mlp, nn.Sigmoid, 4)),
    Case(
        "softplus, bias - 5",
        "at its flat end, where it works",
        partial(mlp, nn.Softplus, 2, he, change=offset(0, -5.0)),
    ),
    Case("sigmoid, depth 3", "the published depth at which plain sigmoids still learn", partial(mlp, nn.Sigmoid, 3)),
    Case("sigmoid, depth 2, Xavier", "two layers", partial(mlp, nn.Sigmoid, 2, xavier)),
    *(
        Case(
            f"cores, depth {depth}",
            "sigmoids, prepared",
            partial(prepared, depth),
            optimizer=adam(0.03 / depth),
            slow=depth > 10,
        )
        for depth in (10, 100, 1000)
    ),
    Case("ReLU, He, depth 20", "plain and deep", partial(mlp, nn.ReLU, 20, he)),
    Case("ReLU, He, depth 50, width 256", "plain and deeper", partial(mlp, nn.ReLU, 50, he, width=256), slow=True),
    Case("tanh, orthogonal, depth 30", "plain and deep", partial(mlp, nn.Tanh, 30, orthogonal)),
    Case("tanh, Xavier, depth 5", "common", partial(mlp, nn.Tanh, 5, xavier)),
    Case("GELU, He, depth 8", "common", partial(mlp, nn.GELU, 8, he)),
    Case("SELU, LeCun, depth 20", "normalises itself", partial(mlp, nn.SELU, 20, orthogonal)),
    Case("no activation, orthogonal, depth 50", "deep linear network", partial(mlp, nn.Identity, 50, orthogonal)),
    Case("ReLU, PyTorch's default, depth 3", "what most people have", partial(mlp, nn.ReLU, 3)),
    Case("ReLU, width 4", "so narrow that chance decides", partial(mlp, nn.ReLU, 2, he, width=4)),
    Case("ReLU, width 2,048", "small gradients of many weights", partial(mlp, nn.ReLU, 2, he, width=2048), slow=True),
    Case(
        "ReLU, 30 % of a layer dead",
        "a common share",
        partial(mlp, nn.ReLU, 4, he, change=offset_some(4, 0.3, -30.0)),
    ),
    Case(
        "tanh, 10 % of a layer saturated",
        "a few neurons",
        partial(mlp, nn.Tanh, 4, xavier, change=offset_some(4, 0.1, 8.0)),
    ),
    Case("ReLU, inputs 0 to 255", "scale passes through a ReLU", partial(unnormalised, nn.ReLU)),
    Case(
        "last layer starts at 0",
        "nothing comes back at the first step, all at the second",
        partial(mlp, nn.ReLU, 3, he, change=zero_head),
    ),
    Case("loss x 1e-6", "small numbers", partial(pictured, 1e-6)),
    Case("loss x 1e6", "large numbers", partial(pictured, 1e6)),
    Case("batch of 2", "hardly any statistics", partial(mlp, nn.ReLU, 3, he, samples=2)),
    Case(
        "trained ReLU", "confident: most samples give no gradient", partial(trained, partial(mlp, nn.ReLU, 3, he), 200)
    ),
    Case("trained sigmoid, depth 2", "confident", partial(trained, partial(mlp, nn.Sigmoid, 2, xavier), 300, 1e-2)),
    Case("trained tanh", "confident", partial(trained, partial(mlp, nn.Tanh, 3, xavier), 200)),
    Case("frozen trunk and head", "frozen on purpose", frozen_trunk),
    Case("autoencoder through 2 numbers", "a narrow bottleneck", autoencoder),
    Case("autoencoder, trained", "a narrow bottleneck", partial(trained, autoencoder, 200)),
    Case("tanh field of one input", "few dimensions", field),
    Case(
        "BatchNorm and sigmoid, depth 5",
        "normalised before each sigmoid",
        partial(normalised, nn.Sigmoid, nn.BatchNorm1d, 5),
    ),
    Case("LayerNorm and GELU, depth 10", "normalised", partial(normalised, nn.GELU, nn.LayerNorm, 10)),
)
