"""Healthy networks that nobody tuned the Equalizer on: how many end clearly worse with it.

40 small networks, batches of 4 to 512, cores set by `prepare`, `calibrate` or by hand, 150 steps of Adam: with the
Equalizer, without it, and without it in another order of the batches. The score is the loss on unseen samples (of a
GAN, whose two players have an optimizer and an Equalizer each, the energy distance to the data). Suspected: with the
Equalizer, plus 0.01, more than 1.2 times the worse without it, in one of two seeds. Because another order alone changes
the score of some by a factor of 2, 16 further seeds decide: worse are those suspected networks whose mean of the
logarithm of this ratio, here to the same order without it, is more than two standard errors above 0.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

import sigmoidcore as sc
from _report import Report, arguments
from training import digits

STEPS, WORSE, ORDERS = 150, 1.2, (0, 1000)
MORE = range(2, 18)
"""Seeds that decide whether a suspected network is worse."""
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def core(width: int, dim: int = -1, slope: float = 2.0) -> sc.SigmoidCore:
    return sc.SigmoidCore(width, dim=dim, alpha=slope, centered=True)


def mlp(*widths: int, slope: float = 2.0) -> nn.Sequential:
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), core(b, slope=slope))]
    return nn.Sequential(*layers[:-1])


def convnet(*channels: int, norm: bool = False, stride: int = 1, groups: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for i, (a, b) in enumerate(pairwise((1, *channels))):
        layers.append(nn.Conv2d(a, b, 3, stride if i == 1 else 1, padding=1, groups=a if groups and i else 1))
        layers += [nn.BatchNorm2d(b)] * norm + [core(b, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels[-1], 10))


class Highway(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Sequential(nn.Linear(width, width), core(width))
        self.gate = nn.Sequential(nn.Linear(width, width), sc.SigmoidCore(width))
        nn.init.constant_(self.gate.get_parameter("0.bias"), -2.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x) * (self.value(x) - x)


class Experts(nn.Module):
    def __init__(self, best: int = 4) -> None:
        super().__init__()
        self.best, self.router = best, mlp(64, 16, 4)
        self.experts = nn.ModuleList(mlp(64, 32, 32, 10) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x)
        low = weights.topk(self.best, 1).values[:, -1:]
        shares = weights.masked_fill(weights < low, -math.inf).softmax(1)
        return (torch.stack([expert(x) for expert in self.experts], 2) * shares.unsqueeze(1)).sum(2)


class Gates(nn.Module):
    def __init__(self, width: int = 32, minimal: bool = False) -> None:
        super().__init__()
        self.width, kinds = width, [sc.SigmoidCore] * (1 if minimal else 2)
        gates = [nn.Sequential(nn.Linear(8 + width, width), kind(width)) for kind in (core, *kinds)]
        self.gates, self.head = nn.ModuleList(gates), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.width)
        for row in x.unflatten(1, (8, 8)).unbind(1):
            update, reset = self.gates[1](torch.cat([row, h], 1)), self.gates[-1](torch.cat([row, h], 1))
            h = h + update * (self.gates[0](torch.cat([row, reset * h], 1)) - h)
        out: Tensor = self.head(h)
        return out


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + super().forward(x)
        return out

    @classmethod
    def of(cls, width: int, norm: bool = False) -> "Residual":
        return cls(nn.LayerNorm(width) if norm else nn.Identity(), mlp(width, width, width))


class Gan(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.make, self.judge = mlp(4, width, width, 2), mlp(2, width, width, 1)

    def forward(self, x: Tensor, learns: bool = True) -> Tensor:
        points = self.make(torch.randn(len(x), 4))
        out: Tensor = self.judge(torch.cat([x, points if learns else points.detach()]))
        return out


def answers(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return mse_loss(model(x), y) if y.is_floating_point() else cross_entropy(model(x), y)


def itself(model: nn.Module, x: Tensor, y: Tensor, noise: float = 0.0) -> Tensor:
    return mse_loss(model(x + noise * torch.randn_like(x)), x)


def judged(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    real = torch.tensor([1.0, 0.0]).repeat_interleave(len(x)).unsqueeze(1)
    return binary_cross_entropy_with_logits(model(x, learns=False), real)


def deceived(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(model(x)[len(x) :], torch.ones(len(x), 1))


def distance(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    points: Tensor = model.make(torch.randn(512, 4, generator=torch.Generator().manual_seed(0)))  # type: ignore[operator]
    return 2 * torch.cdist(points, x).mean() - torch.cdist(points, points).mean() - torch.cdist(x, x).mean()


def equation(model: nn.Module, x: Tensor, y: Tensor, order: int = 2) -> Tensor:
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        d = x * (math.pi - x) * model(x) if order == 2 else x * model(x)
        for _ in range(order):
            (d,) = torch.autograd.grad(d.sum(), x, create_graph=True)
        return (d - (-x.sin() if order == 2 else x.cos())).square().mean()


def samples(data: str) -> tuple[Tensor, Tensor]:
    if data == "moons":
        x, y = make_moons(1500, noise=0.2, random_state=0)
        return torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    if data == "digits":
        return digits().train_x, digits().train_y
    x = torch.rand(1500, 1, generator=torch.Generator().manual_seed(0))
    return (2 * x - 1, (12 * x - 6).sin()) if data == "wave" else (math.pi * x, x)


@dataclass(frozen=True)
class Healthy:
    make: Callable[[], nn.Module]
    batch: int = 32
    slopes: str = "prepare"
    loss: Loss = answers
    data: str = "digits"
    score: Loss | None = None
    rate: float = 0.002

    def players(self, model: nn.Module) -> list[tuple[nn.Module, Loss]]:
        """What trains in turn, each with its loss."""
        return [(model.judge, judged), (model.make, deceived)] if isinstance(model, Gan) else [(model, self.loss)]


def tower(block: Callable[[int], nn.Module], depth: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), core(32), *(block(32) for _ in range(depth)), nn.Linear(32, 10))


DENOISE, HAND, CALIBRATED = partial(itself, noise=0.3), "as built", "calibrate"
NETWORKS = {
    "convnet": Healthy(partial(convnet, 8, 8, 8)),
    "convnet, batch 4": Healthy(partial(convnet, 8, 8, 8), 4),
    "convnet, deep": Healthy(partial(convnet, *[8] * 10), 64),
    "convnet, stride": Healthy(partial(convnet, 8, 16, 16, stride=2), 16, CALIBRATED),
    "convnet, depthwise": Healthy(partial(convnet, 8, 8, 8, groups=True), 64, HAND),
    "convnet, BatchNorm": Healthy(partial(convnet, 8, 8, 8, norm=True), 64, HAND),
    "convnet, BatchNorm, batch 8": Healthy(partial(convnet, 8, 8, norm=True), 8, CALIBRATED),
    "GAN": Healthy(Gan, 64, HAND, data="moons", score=distance),
    "GAN, wide, batch 512": Healthy(partial(Gan, 64), 512, HAND, data="moons", score=distance),
    "GAN, calibrated": Healthy(Gan, 128, CALIBRATED, data="moons", score=distance),
    "autoencoder": Healthy(partial(mlp, 64, 32, 8, 32, 64), 32, HAND, itself),
    "autoencoder, deep": Healthy(partial(mlp, 64, 48, 32, 16, 8, 16, 32, 48, 64), 64, loss=itself),
    "autoencoder, batch 4": Healthy(partial(mlp, 64, 32, 64), 4, loss=itself),
    "autoencoder, denoising": Healthy(partial(mlp, 64, 64, 64, 64), 128, CALIBRATED, DENOISE),
    "highway": Healthy(partial(tower, Highway, 6), 32, HAND),
    "highway, deep, calibrated": Healthy(partial(tower, Highway, 15), 64, CALIBRATED),
    "highway, batch 8": Healthy(partial(tower, Highway, 4), 8, HAND),
    "residual": Healthy(partial(tower, Residual.of, 6), 32, HAND),
    "residual, deep": Healthy(partial(tower, Residual.of, 15), 128),
    "residual, LayerNorm": Healthy(partial(tower, partial(Residual.of, norm=True), 8), 16, HAND),
    "experts": Healthy(Experts, 64),
    "experts, the best": Healthy(partial(Experts, 1), 64, HAND),
    "experts, the best two, batch 16": Healthy(partial(Experts, 2), 16, HAND),
    "GRU of cores": Healthy(Gates, 32, HAND, rate=0.005),
    "GRU of cores, batch 8": Healthy(Gates, 8, HAND, rate=0.005),
    "minimal gated unit": Healthy(partial(Gates, minimal=True), 128, HAND, rate=0.005),
    "PINN, second order": Healthy(partial(mlp, 1, 32, 32, 1), 64, loss=equation, data="interval"),
    "PINN, by hand": Healthy(partial(mlp, 1, 32, 32, 32, 1), 64, HAND, equation, "interval"),
    "PINN, first order": Healthy(partial(mlp, 1, 16, 16, 1), 16, HAND, partial(equation, order=1), "interval"),
    "moons, batch 4": Healthy(partial(mlp, 2, 16, 16, 16, 2), 4, data="moons"),
    "moons, deep, batch 512": Healthy(partial(mlp, 2, *[16] * 20, 2), 512, data="moons"),
    "wave": Healthy(partial(mlp, 1, 32, 32, 32, 1), 32, data="wave"),
    "wave, steep": Healthy(partial(mlp, 1, 32, 32, 1, slope=8.0), 8, HAND, data="wave"),
    "digits, 30 layers, batch 8": Healthy(partial(mlp, 64, *[32] * 30, 10), 8),
    "digits, 3 layers, batch 4": Healthy(partial(mlp, 64, 32, 32, 32, 10), 4, HAND),
    "digits, 10 layers, batch 512": Healthy(partial(mlp, 64, *[32] * 10, 10), 512),
    "digits, bottleneck": Healthy(partial(mlp, 64, 32, 4, 32, 10), 16, HAND),
    "digits, wide, calibrated": Healthy(partial(mlp, 64, 256, 256, 10), 32, CALIBRATED),
    "digits, as numbers": Healthy(partial(mlp, 64, 32, 32, 64), 8, loss=itself),
    "wave, 10 layers, batch 256": Healthy(partial(mlp, 1, *[16] * 10, 1), 256, data="wave"),
}


def trained(network: Healthy, equalized: bool, steps: int, seed: int, order: int) -> tuple[float, int]:
    torch.manual_seed(seed)
    x, y = samples(network.data)
    model, (x, unseen), (y, answers) = network.make(), x.split([1000, len(x) - 1000]), y.split([1000, len(y) - 1000])
    if network.slopes != HAND:
        getattr(sc, network.slopes)(model, x[:256])
    players = []
    for part, loss in network.players(model):
        groups: Any = sc.depth_scaled_lr(part) if network.slopes == "prepare" else part.parameters()
        optimizer = torch.optim.Adam(groups, network.rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
        players.append((optimizer, schedule, loss, sc.Equalizer(part, optimizer) if equalized else None))
    torch.manual_seed(seed + order)
    for _ in range(steps):
        rows = torch.randperm(len(x))[: network.batch]
        for optimizer, schedule, loss, _equalizer in players:
            optimizer.zero_grad()
            loss(model, x[rows], y[rows]).backward()
            optimizer.step()
            schedule.step()
    changes = 0
    for equalizer in (equalizer for *_others, equalizer in players if equalizer is not None):
        changes += sum(bool(sample.slopes or sample.neurons or sample.recovered) for sample in equalizer.history)
        equalizer.remove()
    torch.manual_seed(0)
    with torch.no_grad():
        return float((network.score or network.loss)(model.eval(), unseen, answers)), changes


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    steps, names = (20, list(NETWORKS)[::8]) if options.quick else (STEPS, list(NETWORKS))
    seeds = [0] if options.quick else [0, 1]
    report = Report("healthy_equalizer", options, key=("network",), seeds=seeds, settings={"steps": steps})
    for name in names:
        network = NETWORKS[name]
        if not report.wants(network=name):
            continue
        watched, changes = zip(*(trained(network, True, steps, seed, 0) for seed in seeds), strict=True)
        alone = [[trained(network, False, steps, seed, order)[0] for order in ORDERS] for seed in seeds]
        ratios = [(a + 0.01) / (max(b) + 0.01) for a, b in zip(watched, alone, strict=True)]
        row = {"batch": network.batch, "watched": statistics.fmean(watched), "changes": sum(changes)}
        row |= {"alone": statistics.fmean(b[0] for b in alone), "over_the_worse": max(ratios)}
        suspected, mean, error = any(not r <= WORSE for r in ratios), 0.0, 0.0
        if suspected:
            scores = [[trained(network, on, steps, seed, 0)[0] + 0.01 for on in (True, False)] for seed in MORE]
            logs = [math.log(a / b) for a, b in scores]
            mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
        row |= {"suspected": suspected, "ratio": math.exp(mean), "error": error, "worse": not mean <= 2 * error}
        report.add(network=name, **row, scores=[watched, alone])
    print(f"{sum(row['worse'] for row in report.rows)} of {len(report.rows)} end clearly worse")
    report.finish()


if __name__ == "__main__":
    main()
