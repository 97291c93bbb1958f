"""Gates: nn.LSTM and nn.GRU as they are, with chrono gates and with calibrated gates, against the RNN of cores.

Tasks: digits pixel by pixel (64 steps), the same in a random order, Fashion-MNIST pixel by pixel (784 steps, a small
fixed subset), the adding problem (400 and 1,000 steps, fresh sequences every step; always answering 1 has an error of
0.167) and copying (ten symbols of eight after 200 blanks; percentage right, guesses have 12.5).

Adam, the same steps and schedule for all; three learning rates each with the first seed, and the other seed with the
best of them; Sigmoid Core's RNN at the rate of its rule. `peers/recurrent.py` has the other layers and their rates.

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
from peers.recurrent import RIVALS
from sigmoidcore.nn.recurrent import converted, folded
from training import digits

KINDS = (
    "rnn of cores",
    *("lstm", "lstm chrono", "lstm calibrated", "lstm folded"),
    *("gru", "gru chrono", "gru calibrated", "gru folded"),
    *RIVALS,
)
RATES = (0.003, 0.01, 0.03)
BATCHES: dict[str, int] = {
    **{"digits 64": 100, "permuted 64": 100, "fashion 784": 50},
    **{"adding 400": 50, "adding 1000": 50, "copy 200": 50},
}
UNITS = {name: 64 if "64" in name else 32 for name in BATCHES}
STEPS = {name: 210 if "64" in name else 150 if "fashion" in name else 400 for name in BATCHES}
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
    answers: int = 1  # outputs are those of so many last steps


def percent(outputs: Tensor, targets: Tensor) -> float:
    return 100 * float((outputs.argmax(1) == targets).float().mean())


def pixels(name: str) -> Task:
    split = fashion_mnist(train=1000, test=500) if name == "fashion 784" else digits()
    order = torch.arange(split.train_x.shape[1])
    if name == "permuted 64":
        order = torch.randperm(len(order), generator=torch.Generator().manual_seed(92916))
    x, y, batch = split.train_x[:, order].unsqueeze(-1), split.train_y, BATCHES[name]

    def batches(generator: torch.Generator, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        while True:
            for rows in torch.randperm(len(x), generator=generator).split(batch):
                if done == steps:
                    return
                done += 1
                yield x[rows], y[rows]

    test = split.test_x[:, order].unsqueeze(-1), split.test_y
    first = x[:CALIBRATION], y[:CALIBRATION]
    return Task(1, 10, first, batches, test, nn.functional.cross_entropy, percent)


def adding(name: str) -> Task:
    steps = int(name.split()[1])

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


def copying(name: str) -> Task:
    """Ten symbols, blanks, a mark, and ten steps in which the symbols are asked for in order."""
    symbols, count, steps = 8, 10, int(name.split()[1])

    def draw(generator: torch.Generator, samples: int) -> tuple[Tensor, Tensor]:
        shown = torch.randint(symbols, (samples, count), generator=generator)
        read = torch.full((samples, steps + 2 * count), symbols)
        read[:, :count], read[:, -count - 1] = shown, symbols + 1
        return nn.functional.one_hot(read, symbols + 2).float(), shown

    def batches(generator: torch.Generator, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            yield draw(generator, BATCHES[name])

    fixed = torch.Generator().manual_seed(10_000)
    first, test = draw(fixed, CALIBRATION), draw(fixed, 500)
    loss = lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())  # noqa: E731
    score = lambda outputs, targets: percent(outputs.flatten(0, 1), targets.flatten())  # noqa: E731
    return Task(symbols + 2, symbols, first, batches, test, loss, score, count)


MAKE = {"digits": pixels, "permuted": pixels, "fashion": pixels, "adding": adding, "copy": copying}
TASKS: dict[str, Callable[[str], Task]] = {name: MAKE[name.split()[0]] for name in BATCHES}


def network(kind: str, task: Task, units: int) -> LastStep:
    if kind in RIVALS:
        return LastStep(RIVALS[kind][0](task.features, units), task.outputs, task.answers)
    make = sc.recurrent.CoreRNN if kind.startswith("rnn") else nn.LSTM if kind.startswith("lstm") else nn.GRU
    return LastStep(make(task.features, units, batch_first=True), task.outputs, task.answers)


@torch.no_grad()
def chrono(layer: nn.RNNBase, steps: int) -> None:
    """Biases of the gates by random time constants; of an LSTM's input gate the opposite."""
    gates = len(layer.bias_ih_l0) // layer.hidden_size
    bias = torch.empty(layer.hidden_size).uniform_(1, steps - 1).log_()
    for each, value in zip(layer.bias_ih_l0.chunk(gates), (-bias, bias) if gates == 4 else (None, bias), strict=False):
        if value is not None:
            each.copy_(value)
    layer.bias_hh_l0.zero_()


def train(task: Task, kind: str, lr: float, seed: int, units: int, steps: int) -> tuple[float, float | None]:
    """Score on the test set; spread of the gradient through time before the first step, of our layers and PyTorch's."""
    torch.manual_seed(seed)
    model = network(kind, task, units)
    inputs, targets = task.first
    groups: Any = model.parameters()
    if kind == "rnn of cores":
        sc.prepare(model, inputs, targets=targets, loss_fn=task.loss)
        groups = sc.depth_scaled_lr(model, lr)
    elif kind not in RIVALS:
        if kind.endswith("chrono"):
            chrono(model.layer, inputs.shape[1])
        model.layer = converted(model.layer)
        if kind.endswith(("calibrated", "folded")):
            sc.calibrate(model, inputs, targets=targets, loss_fn=task.loss)
    spread = None if kind in RIVALS else sc.gradient_profile(model, inputs, targets, task.loss).spread
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


def rates_of(kind: str) -> tuple[float, ...]:
    return (0.03,) if kind == "rnn of cores" else RIVALS[kind][1] if kind in RIVALS else RATES


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
        if not any(report.wants(task=name, kind=kind, lr=lr) for kind in KINDS for lr in rates_of(kind)):
            continue
        task, better = make(name), min if name.startswith("adding") else max
        for kind in KINDS:
            if name == "fashion 784" and kind.endswith("chrono"):
                continue
            rates = rates_of(kind)
            if not any(report.wants(task=name, kind=kind, lr=lr) for lr in rates):
                continue
            steps = 20 if options.quick else STEPS[name]
            found = {lr: [train(task, kind, lr, report.seeds[0], UNITS[name], steps)] for lr in rates}
            best = better(rates, key=lambda lr: found[lr][0][0])
            found[best] += [train(task, kind, best, seed, UNITS[name], steps) for seed in report.seeds[1:]]
            for lr, results in found.items():
                scores = [round(score, 4) for score, _ in results]
                spreads = [spread for _, spread in results if spread is not None]
                spread = statistics.median(spreads) if spreads else None
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
