"""Convolutional networks without skip connections, and those that add or join channels."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from catalogue.case import Case, Problem, adam, images, scaled, shifted, train

cross_entropy = nn.functional.cross_entropy
Change = Callable[[nn.Sequential], None]


def convnet(
    activation: Callable[[], nn.Module],
    depth: int,
    factor: float | None = None,
    change: Change | None = None,
    channels: int = 12,
) -> Problem:
    """`depth` convolutions "0", "2", ...; each activation follows its own. `factor` times He, or PyTorch's default."""
    inputs, targets = images()
    layers: list[nn.Module] = []
    for fan_in in (3, *[channels] * (depth - 1)):
        conv = nn.Conv2d(fan_in, channels, 3, padding=1, padding_mode="circular")
        if factor is not None:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            scaled(conv, factor)
        layers += [conv, activation()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))
    if change is not None:
        change(model)
    return model, inputs, targets, cross_entropy


def offset(layer: int, by: float) -> Change:
    return lambda model: shifted(model[layer], by)


def constant(layer: int) -> Change:
    def change(model: nn.Sequential) -> None:
        nn.init.constant_(model[layer].weight, 0.02)
        nn.init.zeros_(model[layer].bias)

    return change


def poisoned(layer: int) -> Change:
    """One weight is not a number, as after a division by 0."""

    def change(model: nn.Sequential) -> None:
        with torch.no_grad():
            model[layer].weight[0, 0, 0, 0] = float("nan")

    return change


def unnormalised(activation: Callable[[], nn.Module]) -> Problem:
    model, inputs, targets, loss_fn = convnet(activation, 3, 0.7)
    return model, (127 + 60 * inputs).clamp(0, 255), targets, loss_fn


def blank(share: float) -> Problem:
    """Images whose pixels are all the same number in this share of the batch."""
    model, inputs, targets, loss_fn = convnet(nn.ReLU, 4, 1.0)
    inputs[: round(share * len(inputs))] = 0.5
    return model, inputs, targets, loss_fn


def normalised(activation: Callable[[], nn.Module], norm: Callable[[int], nn.Module], depth: int) -> Problem:
    layers: list[nn.Module] = []
    for fan_in in (3, *[12] * (depth - 1)):
        layers += [nn.Conv2d(fan_in, 12, 3, padding=1, bias=False), norm(12), activation()]
    return (
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)),
        *images(),
        cross_entropy,
    )


def trained(steps: int) -> Problem:
    problem = normalised(partial(nn.ReLU, inplace=True), nn.BatchNorm2d, 4)
    train(problem, torch.optim.Adam(problem[0].parameters(), lr=3e-3), steps)
    return problem


def prepared(depth: int) -> Problem:
    inputs, targets = images(channels=1)
    layers: list[nn.Module] = []
    for layer in range(depth):
        conv = nn.Conv2d(16 if layer else 1, 16, 3, 2 if layer == 1 else 1, padding=1)
        layers += [conv, sc.SigmoidCore(16, dim=1, alpha=4.0, centered=True)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 6 * 6, 10))
    sc.prepare(model, inputs, targets=targets, loss_fn=cross_entropy)
    return model, inputs, targets, cross_entropy


class Auxiliary(nn.Module):
    """A classifier half way, for the loss; `called`: whether forward remembers it."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(12, 12, 3), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(12, 10)
        self.auxiliary = nn.Linear(12, 10)
        self.called = called

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        outputs = self.head(self.pool(self.late(early)))
        return outputs + self.auxiliary(self.pool(early)) if self.called else outputs


class Dense(nn.Module):
    """Each layer reads all before it, joined."""

    def __init__(self, depth: int, growth: int = 6) -> None:
        super().__init__()
        widths = [3 + growth * i for i in range(depth + 1)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths[:-1])
        self.convs = nn.ModuleList(nn.Conv2d(w, growth, 3, padding=1, bias=False) for w in widths[:-1])
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], dim=1)
        return self.head(x.mean(dim=(2, 3)))


class Excited(nn.Module):
    """Depthwise and pointwise convolutions, hard swish, and a hard sigmoid as gate, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.second_norm = nn.BatchNorm2d(16)
        self.squeeze = nn.Conv2d(16, 8, 1)
        self.excite = nn.Conv2d(8, 16, 1)
        self.project = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.norm(self.stem(x)))
        x = nn.functional.hardswish(self.second_norm(self.depthwise(x)))
        gate = self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True))))
        x = self.project(x * nn.functional.hardsigmoid(gate))
        return self.head(x.mean(dim=(2, 3)))


class Unet(nn.Module):
    """Down and up again, with the detail joined in; says a class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.join = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = self.up(self.middle(nn.functional.max_pool2d(fine, 2)))
        return self.head(self.join(torch.cat([fine, coarse], dim=1)))


def pixels() -> Problem:
    inputs, _ = images(samples=8)
    return Unet(), inputs, (inputs[:, 0] > 0).long(), cross_entropy


BROKEN = (
    Case(
        "conv, sigmoid, depth 15",
        "plain sigmoids and PyTorch's default weights",
        partial(convnet, nn.Sigmoid, 15),
        ("US101",),
        ("0",),
    ),
    Case("conv, ReLU, weights x 0.3, depth 20", "0.3^20", partial(convnet, nn.ReLU, 20, 0.3), ("US101",), ("0",)),
    Case("conv, tanh, weights x 0.15, depth 12", "0.15^12", partial(convnet, nn.Tanh, 12, 0.15), ("US101",), ("0",)),
    Case("conv, ReLU, weights x 3, depth 20", "3^20", partial(convnet, nn.ReLU, 20, 3.0), ("US102",), ("0",)),
    Case(
        "conv, leaky ReLU, weights x 2.5, depth 24",
        "2.5^24",
        partial(convnet, partial(nn.LeakyReLU, 0.1), 24, 2.5),
        ("US102",),
        ("0",),
    ),
    Case(
        "conv, ReLU, layer 4 of 6 dead",
        "bias - 20",
        partial(convnet, nn.ReLU, 6, 1.0, offset(6, -20.0)),
        ("US202",),
        ("7",),
    ),
    Case(
        "conv, ReLU6, layer 2 of 5 dead at the top",
        "bias + 40: its ReLU6 says 6 for every input",
        partial(convnet, nn.ReLU6, 5, 1.0, offset(2, 40.0)),
        ("US202",),
        ("3",),
    ),
    Case("conv, tanh, pixels 0 to 255", "nobody normalised them", partial(unnormalised, nn.Tanh), ("US201",), ("1",)),
    Case(
        "conv, sigmoid, layer 2 of 3 saturated",
        "bias + 8",
        partial(convnet, nn.Sigmoid, 3, None, offset(2, 8.0)),
        ("US201",),
        ("3",),
    ),
    Case(
        "conv, all images blank",
        "the loader gives the same grey image again and again",
        partial(blank, 1.0),
        ("US203",),
        (),
    ),
    Case(
        "conv, constant weights in layer 2",
        "all of its filters compute, and learn, the same",
        partial(convnet, nn.ReLU, 4, 1.0, constant(2)),
        ("US503",),
        ("2.weight",),
    ),
    Case(
        "conv, one weight is NaN in layer 3",
        "as after a division by 0",
        partial(convnet, nn.ReLU, 4, 1.0, poisoned(4)),
        ("US401",),
        ("4", "4.weight"),
    ),
    Case(
        "conv, auxiliary head never called",
        "forward has forgotten it",
        lambda: (Auxiliary(called=False), *images(), cross_entropy),
        ("US501",),
        ("auxiliary.weight", "auxiliary.bias"),
    ),
)

HEALTHY = (
    Case("conv, ReLU, He, depth 10", "plain", partial(convnet, nn.ReLU, 10, 1.0)),
    Case("conv, ReLU, PyTorch's default, depth 3", "what most people have", partial(convnet, nn.ReLU, 3)),
    Case("conv, sigmoid, depth 2", "shallow", partial(convnet, nn.Sigmoid, 2)),
    Case("conv, cores, depth 20", "sigmoids, prepared", partial(prepared, 20), optimizer=adam(1.5e-3), slow=True),
    Case(
        "conv, BatchNorm, ReLU in place, depth 8",
        "activations overwrite their inputs",
        partial(normalised, partial(nn.ReLU, inplace=True), nn.BatchNorm2d, 8),
    ),
    Case(
        "conv, GroupNorm, SiLU, depth 8",
        "normalised within a sample",
        partial(normalised, nn.SiLU, partial(nn.GroupNorm, 4), 8),
    ),
    Case("conv, BatchNorm, trained", "confident", partial(trained, 150), slow=True),
    Case("conv, a quarter of the images blank", "padding", partial(blank, 0.25)),
    Case(
        "conv, auxiliary head",
        "two branches to one loss",
        lambda: (Auxiliary(called=True), *images(), cross_entropy),
    ),
    Case("conv, densely connected, 8 layers", "joined", lambda: (Dense(8), *images(), cross_entropy)),
    Case("conv, depthwise, hard swish and hard gates", "flat parts", lambda: (Excited(), *images(), cross_entropy)),
    Case("conv, U-net, a class for each pixel", "down and up", pixels),
)
