"""Gates: nn.LSTM and nn.GRU as they are, with chrono gates and with calibrated gates, against the RNN of cores.

Three tasks: digits pixel by pixel (64 steps), Fashion-MNIST pixel by pixel (784 steps, a small fixed subset) and the
adding problem (400 steps, fresh sequences every step; always answering 1 has an error of 0.167). Adam, the same steps
and schedule for all; three learning rates each with the first seed, and the other seed with the best of them; Sigmoid
Core's RNN at its rule's own.

Chrono gates are those of Tallec and Ollivier (2018), the published initialisation by time constants; not measured on
784 steps, to save time. Calibrated gates are trained with their slopes, which multiply what Adam does to the weights;
folded ones are calibrated, too, and then made a plain layer again before training.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _fashion_mnist import fashion_mnist
from _last_step import LastStep
from _report import Report, arguments
from sigmoidcore.nn.recurrent import converted, folded
from training import digits

KINDS = (
    "rnn of cores",
    *("lstm", "lstm chrono", "lstm calibrated", "lstm folded"),
    *("gru", "gru chrono", "gru calibrated", "gru folded"),
)
RATES = (0.003, 0.01, 0.03)
BATCHES: dict[str, int] = {"digits 64": 100, "fashion 784": 50, "adding 400": 50}
UNITS = {"digits 64": 64, "fashion 784": 32, "adding 400": 32}
STEPS = {"digits 64": 210, "fashion 784": 150, "adding 400": 400}
CALIBRATION = 64
"""Sequences of the calibration batch."""


@dataclass(frozen=True)
class Task:
    """`batches(generator, steps)` yields training batches; `score` is a percentage right or a mean squared error."""

    features: int
    outputs: int
    first: tuple[Tensor, Tensor]
    batches: Callable[[torch.Generator, int], Iterator[tuple[Tensor, Tensor]]]
    test: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def pixels(name: str) -> Task:
    split = digits() if name == "digits 64" else fashion_mnist(train=1000, test=500)
    x, y, batch = split.train_x.unsqueeze(-1), split.train_y, BATCHES[name]

    def batches(generator: torch.Generator, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        while True:
            for rows in torch.randperm(len(x), generator=generator).split(batch):
                if done == steps:
                    return
                done += 1
                yield x[rows], y[rows]

    def percent(outputs: Tensor, targets: Tensor) -> float:
        return 100 * float((outputs.argmax(1) == targets).float().mean())

    test = split.test_x.unsqueeze(-1), split.test_y
    first = x[:CALIBRATION], y[:CALIBRATION]
    return Task(1, 10, first, batches, test, nn.functional.cross_entropy, percent)


def adding(name: str) -> Task:
    steps = 400

    def draw(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        values, marks = torch.rand(count, steps, generator=generator), torch.zeros(count, steps)
        for half in (0, steps // 2):
            marks[torch.arange(count), half + torch.randint(0, steps // 2, (count,), generator=generator)] = 1
        return torch.stack([values, marks], -1), (values * marks).sum(1, keepdim=True)

    def batches(generator: torch.Generator, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            yield draw(generator, BATCHES[name])

    fixed = torch.Generator().manual_seed(10_000)
    loss = nn.functional.mse_loss
    return Task(2, 1, draw(fixed, CALIBRATION), batches, draw(fixed, 500), loss, lambda o, t: float(loss(o, t)))


TASKS: dict[str, Callable[[str], Task]] = {"digits 64": pixels, "fashion 784": pixels, "adding 400": adding}


def network(kind: str, features: int, units: int, outputs: int) -> LastStep:
    make = sc.recurrent.CoreRNN if kind.startswith("rnn") else nn.LSTM if kind.startswith("lstm") else nn.GRU
    return LastStep(make(features, units, batch_first=True), outputs)


@torch.no_grad()
def chrono(layer: nn.RNNBase, steps: int) -> None:
    """Biases of the gates by random time constants; of an LSTM's input gate the opposite."""
    gates = len(layer.bias_ih_l0) // layer.hidden_size
    bias = torch.empty(layer.hidden_size).uniform_(1, steps - 1).log_()
    for each, value in zip(layer.bias_ih_l0.chunk(gates), (-bias, bias) if gates == 4 else (None, bias), strict=False):
        if value is not None:
            each.copy_(value)
    layer.bias_hh_l0.zero_()


def train(task: Task, kind: str, lr: float, seed: int, units: int, steps: int) -> tuple[float, float]:
    """Score on the test set; spread of the gradient through time before the first step."""
    torch.manual_seed(seed)
    model = network(kind, task.features, units, task.outputs)
    inputs, targets = task.first
    groups: Any = model.parameters()
    if kind == "rnn of cores":
        sc.prepare(model, inputs, targets=targets, loss_fn=task.loss)
        groups = sc.depth_scaled_lr(model, lr)
    else:
        if kind.endswith("chrono"):
            chrono(model.layer, inputs.shape[1])
        model.layer = converted(model.layer)
        if kind.endswith(("calibrated", "folded")):
            sc.calibrate(model, inputs, targets=targets, loss_fn=task.loss)
    spread = sc.gradient_profile(model, inputs, targets, task.loss).spread
    if kind.endswith("folded"):
        model.layer = folded(model.layer)
        groups = model.parameters()
    optimizer = torch.optim.Adam(groups, lr=lr, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, (x, y) in enumerate(task.batches(torch.Generator().manual_seed(seed), steps)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        task.loss(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return task.score(model(task.test[0]), task.test[1]), spread


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)  # a vanished gradient is slow in denormal numbers, and no less vanished
    report = Report(
        "gates",
        options,
        key=("task", "kind", "lr"),
        seeds=[0] if options.quick else [0, 1],
        settings={"units": UNITS, "batch": BATCHES, "training steps": STEPS, "calibration batch": CALIBRATION},
    )
    for name, make in TASKS.items():
        task, better = make(name), min if name.startswith("adding") else max
        for kind in KINDS:
            if name == "fashion 784" and kind.endswith("chrono"):
                continue
            rates = (0.03,) if kind == "rnn of cores" else RATES
            if not any(report.wants(task=name, kind=kind, lr=lr) for lr in rates):
                continue
            steps = 20 if options.quick else STEPS[name]
            found = {lr: [train(task, kind, lr, report.seeds[0], UNITS[name], steps)] for lr in rates}
            best = better(rates, key=lambda lr: found[lr][0][0])
            found[best] += [train(task, kind, best, seed, UNITS[name], steps) for seed in report.seeds[1:]]
            for lr, results in found.items():
                scores = [round(score, 4) for score, _ in results]
                spread = statistics.median([spread for _, spread in results])
                report.add(
                    task=name,
                    kind=kind,
                    lr=lr,
                    score=statistics.mean(scores),
                    runs=len(scores),
                    scores=scores,
                    spread=spread,
                )
    report.finish()


if __name__ == "__main__":
    main()
