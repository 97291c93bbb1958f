"""Plain convolutional networks of sigmoids, 20 to 200 layers deep, against the usual ways to train deep networks.

Fashion-MNIST, the first 4,000 training and 2,000 test images, halved to 14 x 14 by averaging, one mean and deviation
for all pixels. 3 x 3 convolutions, 16 channels, the second with a stride of 2 (the rest run on 7 x 7), Flatten, Linear;
Adam, batch 100, 5 epochs, the rate constant for half of the steps and then falling linearly to 0, 3 seeds (2 at depth
200). Sigmoid Core and plain sigmoids take the rule's rates at 0.03, Sigmoid Core the best of three saturation levels,
every other method the best of three rates; both are found at depth 20 with seed 0. ResNet: blocks
h + conv(act(norm(conv(act(norm(h)))))) with ReLU and BatchNorm. DenseNet: each layer reads the joined outputs of all
layers of its block, growth 4, BatchNorm and ReLU before each convolution, a 1 x 1 transition to 16 channels every 10
layers.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _report import Report, arguments
from sigmoidcore.training import Split, fashion_mnist, train

CHANNELS, SIZE, CLASSES = 16, 14, 10
RATES = (0.0003, 0.001, 0.003)
SATURATIONS = (0.5, 1.0, 2.0)


class Residual(nn.Sequential):
    def __init__(self) -> None:
        layers = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Dense(nn.Module):
    """Layers that each read all that came before them in the block, and a transition back to the usual channels."""

    def __init__(self, layers: int, growth: int = 4) -> None:
        super().__init__()
        widths = [CHANNELS + growth * i for i in range(layers + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, growth, 3, padding=1)) for n in widths[:-1]
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Conv2d(widths[-1], CHANNELS, 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.transition(x)


def plain(depth: int, activation: Callable[[int], nn.Module] | None) -> nn.Module:
    return sc.ConvNet(1, CHANNELS, depth, CLASSES, image_size=SIZE, activation=activation)


def he(depth: int) -> nn.Module:
    model = plain(depth, lambda _: nn.ReLU())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model


def stem_and_head(*body: nn.Module) -> nn.Module:
    stem = [nn.Conv2d(1, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 3, 2, padding=1)]
    head = [nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.Flatten(), nn.Linear(CHANNELS * 49, CLASSES)]
    return nn.Sequential(*stem, *body, *head)


METHODS: dict[str, Callable[[int], nn.Module]] = {
    "sigmoid core": lambda depth: plain(depth, None),
    "plain sigmoid": lambda depth: plain(depth, lambda _: nn.Sigmoid()),
    "relu, he": he,
    "batch norm, sigmoid": lambda depth: plain(depth, lambda n: nn.Sequential(nn.BatchNorm2d(n), nn.Sigmoid())),
    "resnet": lambda depth: stem_and_head(*(Residual() for _ in range((depth - 2) // 2))),
    "densenet": lambda depth: stem_and_head(*(Dense(9) for _ in range((depth - 2) // 10 or 1))),
}


def one_rate(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters()), "lr": lr}]


def accuracy(method: str, depth: int, choice: float, seed: int, split: Split, epochs: int) -> float:
    """After training; the choice is a saturation level for Sigmoid Core, and a rate for the others."""
    torch.manual_seed(seed)
    model = METHODS[method](depth)
    ruled = method in ("sigmoid core", "plain sigmoid")
    lr = 0.03 if ruled else choice
    if method == "sigmoid core":
        x, y = split.train_x[:128], split.train_y[:128]
        sc.prepare(model, x, targets=y, loss_fn=nn.functional.cross_entropy, saturation=choice)
    rates = sc.depth_scaled_lr if ruled else one_rate
    try:
        result = train(model, split, epochs=epochs, lr=lr, seed=seed, equalize=method == "sigmoid core", rates=rates)
    except FloatingPointError:
        return 100 / CLASSES
    return round(result.accuracies[-1], 2)


def images(count: int) -> Split:
    split = fashion_mnist(count, 2000)
    halves = [nn.functional.avg_pool2d(x.reshape(-1, 1, 28, 28), 2) for x in (split.train_x, split.test_x)]
    mean, deviation = halves[0].mean(), halves[0].std()
    train_x, test_x = ((x - mean) / deviation for x in halves)
    return dataclasses.replace(split, train_x=train_x, test_x=test_x)


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    epochs, count = (1, 500) if options.quick else (5, 4000)
    report = Report(
        "convnet",
        options,
        key=("method", "depth"),
        seeds=[0] if options.quick else [0, 1, 2],
        settings={
            "channels": CHANNELS,
            "images": count,
            "size": SIZE,
            "batch": 100,
            "epochs": epochs,
            "rates": RATES,
            "saturations": SATURATIONS,
        },
    )
    split = images(count)
    best: dict[str, float] = {}
    for depth in (20,) if options.quick else (20, 50, 100, 200):
        for method in METHODS:
            if not report.wants(method=method, depth=depth):
                continue
            if method not in best:
                choices = {"sigmoid core": SATURATIONS, "plain sigmoid": (0.03,)}.get(method, RATES)
                found = {choice: accuracy(method, 20, choice, 0, split, epochs) for choice in choices}
                best[method] = max(found, key=found.__getitem__)
            started = time.perf_counter()
            seeds = report.seeds if depth < 200 else report.seeds[:2]
            accuracies = [accuracy(method, depth, best[method], seed, split, epochs) for seed in seeds]
            report.add(
                method=method,
                depth=depth,
                choice=best[method],
                accuracy=round(statistics.mean(accuracies), 2),
                accuracies=accuracies,
                seconds=round((time.perf_counter() - started) / len(seeds), 1),
            )
    report.finish()


if __name__ == "__main__":
    main()
