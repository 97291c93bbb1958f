"""Fold: the time of a folded network over that of the plain network of the same layers; goal 0.98 to 1.02.

An MLP, a convnet and an RNN of cores, prepared or calibrated, against themselves folded and against plain networks
with `nn.Tanh` or `nn.RNN`: forward without gradients, and forward with backward. All run in turn, in a new random order
every round; a ratio is the median over rounds. A second plain network, equal to the first, shows the noise.
Time is that of the processor, which other processes do not add to: give `--threads 1`.
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _report import Report, arguments

DEPTH, WIDTH, CHANNELS, UNITS, STEPS = 20, 256, 16, 128, 64
AT_LEAST = 0.005
"""Seconds that one network runs in a round."""


class LastStep(nn.Module):
    """A recurrent layer, and a linear reading of its last output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(UNITS, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0][:, -1])


def convnet(act: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for layer in range(5):
        layers += [nn.Conv2d(CHANNELS if layer else 1, CHANNELS, 3, padding=1), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))


def networks(kind: str) -> tuple[nn.Module, Callable[[], nn.Module], Tensor]:
    """A network of cores, what makes its plain counterpart, and inputs."""
    if kind == "mlp":
        x = torch.randn(256, 64)
        cores: nn.Module = sc.MLP(64, WIDTH, DEPTH, 10)
        sc.prepare(cores, x)
        return cores, lambda: sc.MLP(64, WIDTH, DEPTH, 10, activation=lambda width: nn.Tanh()), x
    if kind == "convnet":
        x = torch.randn(64, 1, 14, 14)
        cores = convnet(lambda: sc.SigmoidCore(CHANNELS, dim=1, centered=True))
        sc.calibrate(cores, x)
        return cores, lambda: convnet(nn.Tanh), x
    x = torch.randn(64, STEPS, 1)
    cores = LastStep(sc.recurrent.CoreRNN(1, UNITS, batch_first=True))
    sc.prepare(cores, x)
    return cores, lambda: LastStep(nn.RNN(1, UNITS, batch_first=True)), x


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def forward_and_backward(model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    model(x).square().mean().backward()


PASSES = {"forward": forward, "forward and backward": forward_and_backward}


def timed(models: dict[str, nn.Module], step: Callable[[nn.Module, Tensor], None], x: Tensor, rounds: int):
    """Seconds of one step of every model in every round."""
    order = random.Random(0)
    started = time.process_time()
    for _ in range(3):
        for model in models.values():
            step(model, x)
    repeats = max(1, round(AT_LEAST * 3 * len(models) / (time.process_time() - started)))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name in order.sample(list(models), len(models)):
            started = time.process_time()
            for _ in range(repeats):
                step(models[name], x)
            seconds[name].append((time.process_time() - started) / repeats)
    return seconds


def ratios(seconds: dict[str, list[float]], name: str) -> list[float]:
    return [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    rounds = 10 if options.quick else 300
    settings = {"depth": DEPTH, "width": WIDTH, "channels": CHANNELS, "units": UNITS, "steps": STEPS, "rounds": rounds}
    report = Report("fold", options, key=("network", "pass"), seeds=[0], settings=settings)
    for kind in ("mlp", "convnet", "rnn"):
        torch.manual_seed(0)
        cores, plain, x = networks(kind)
        folded = sc.fold(cores)
        models = {"cores": cores, "folded": folded, "plain": plain(), "plain again": plain()}
        difference = float((folded(x) - cores(x)).detach().abs().max())
        for name, step in PASSES.items():
            if not report.wants(network=kind, **{"pass": name}):
                continue
            seconds = timed(models, step, x, rounds)
            found = ratios(seconds, "folded")
            low, _, high = statistics.quantiles(found, n=4)
            report.add(
                network=kind,
                **{"pass": name},
                folded_over_plain=round(statistics.median(found), 4),
                quartiles=[round(low, 4), round(high, 4)],
                plain_over_plain=round(statistics.median(ratios(seconds, "plain again")), 4),
                cores_over_plain=round(statistics.median(ratios(seconds, "cores")), 4),
                plain_ms=round(statistics.median(seconds["plain"]) * 1e3, 3),
                largest_difference=difference,
            )
    report.finish()


if __name__ == "__main__":
    main()
