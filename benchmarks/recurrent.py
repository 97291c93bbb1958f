"""Recurrent: digits pixel by pixel (64 steps), 128 units, 30 epochs: the RNN of cores against nn.LSTM, nn.GRU, nn.RNN.

Adam, batch 100, 3 seeds, the same schedule for all; the others at the best of three learning rates, Sigmoid Core at
its rule's own. Time per training step is the median of paired runs, over that of nn.GRU.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _last_step import LastStep
from _report import Report, arguments
from training import accuracy, digits

UNITS = 128
KINDS: dict[str, Callable[[], nn.Module]] = {
    "core": lambda: sc.recurrent.CoreRNN(1, UNITS, batch_first=True),
    "gru": lambda: nn.GRU(1, UNITS, batch_first=True),
    "lstm": lambda: nn.LSTM(1, UNITS, batch_first=True),
    "rnn tanh": lambda: nn.RNN(1, UNITS, batch_first=True),
}


def train(kind: str, lr: float, seed: int, epochs: int, data: tuple[Tensor, ...]) -> float:
    train_x, train_y, test_x, test_y = data
    torch.manual_seed(seed)
    model = LastStep(KINDS[kind](), 10)
    groups: Any = model.parameters()
    if kind == "core":
        sc.prepare(model, train_x[:256], targets=train_y[:256], loss_fn=nn.functional.cross_entropy)
        groups = sc.depth_scaled_lr(model, lr)
    optimizer = torch.optim.Adam(groups, lr=lr, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    step, steps = 0, epochs * -(-len(train_x) // 100)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_x), generator=generator).split(100):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train_x[rows]), train_y[rows]).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        return accuracy(model(test_x), test_y)


def step_times(data: tuple[Tensor, ...], repeats: int) -> dict[str, float]:
    """Median seconds of a forward and backward pass, the kinds in turn."""
    models = {kind: LastStep(KINDS[kind](), 10) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind, model in models.items():
            started = time.perf_counter()
            nn.functional.cross_entropy(model(data[0][:100]), data[1][:100]).backward()
            times[kind].append(time.perf_counter() - started)
    return {kind: statistics.median(values[2:]) for kind, values in times.items()}


def main() -> None:
    options = arguments(__doc__).parse_args()
    epochs = 3 if options.quick else 30
    report = Report(
        "recurrent",
        options,
        key=("kind", "lr"),
        seeds=[0] if options.quick else [0, 1, 2],
        settings={"units": UNITS, "steps": 64, "batch": 100, "epochs": epochs},
    )
    split = digits()
    data = (split.train_x[:, :, None], split.train_y, split.test_x[:, :, None], split.test_y)
    times = step_times(data, 10 if options.quick else 40)
    for kind in KINDS:
        for lr in (0.03,) if kind == "core" else (0.001, 0.003, 0.01):
            if report.wants(kind=kind, lr=lr):
                found = [round(train(kind, lr, seed, epochs, data), 2) for seed in report.seeds]
                report.add(
                    kind=kind,
                    lr=lr,
                    accuracy=statistics.median(found),
                    accuracies=found,
                    step_ms=round(times[kind] * 1e3, 2),
                    over_gru=round(times[kind] / times["gru"], 3),
                )
    report.finish()


if __name__ == "__main__":
    main()
