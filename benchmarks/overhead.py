"""Overhead: a training step with the Equalizer at its default cadence over one without; the time of `prepare`.

Digits, width 64, depths 100 and 1,000, batch 100, 10 epochs (140 steps). Two trainings of the same network on the same
batches, one with and one without, take turns step by step, so that what else the machine does slows both; the ratio is
that of the sums over all steps, and the median over 8 pairs, in every second of which the other one is made and goes
first. With one thread the time is the processor's, else the clock's. `prepare` sees one batch of 100, too, and is
counted in training steps (forward, backward, Adam).
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _report import Report, arguments
from training import digits


def now() -> float:
    """Seconds of the processor's time, or of the clock's where several threads share the work."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds_of_steps(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], equalizes: bool, looks: list[int]
) -> Iterator[float]:
    """Train, and yield after every step what it took; the Equalizer's first and last work included."""
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    setup = now()
    with sc.Equalizer(model, optimizer) if equalizes else nullcontext() as equalizer:
        extra = now() - setup
        for i, (x, y) in enumerate(batches):
            started = now()
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * min(1.0, 2 * (1 - i / len(batches)))
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield now() - started + extra
            extra = 0.0
        if equalizer is not None:
            looks.append(len(equalizer.history))


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    pairs, epochs = (2, 2) if options.quick else (8, 10)
    report = Report(
        "overhead",
        options,
        key=("depth",),
        seeds=list(range(pairs)),
        settings={"width": 64, "batch": 100, "epochs": epochs},
    )
    split = digits()
    x, y = split.train_x[:100], split.train_y[:100]
    for depth in (100,) if options.quick else (100, 1000):
        if not report.wants(depth=depth):
            continue
        ratios, steps, prepares, looks = [], [], [], []
        for seed in report.seeds:
            runs: list[Iterator[float]] = []
            generator = torch.Generator().manual_seed(seed)
            orders = [torch.randperm(len(split.train_x), generator=generator).split(100) for _ in range(epochs)]
            batches = [(split.train_x[rows], split.train_y[rows]) for order in orders for rows in order]
            first = seed % 2 == 0  # whether the training with the Equalizer is made and goes first
            for equalizes in (first, not first):
                torch.manual_seed(seed)
                model = sc.MLP(64, 64, depth, 10)
                started = now()
                sc.prepare(model, x, targets=y, loss_fn=nn.functional.cross_entropy)
                prepares.append(now() - started)
                runs.append(seconds_of_steps(model, batches, equalizes, looks))
            taken = [pair if first else pair[::-1] for pair in zip(*runs, strict=True)]
            ratios.append(sum(pair[0] for pair in taken) / sum(pair[1] for pair in taken))
            steps += [pair[1] for pair in taken]
        step = statistics.median(steps)
        report.add(
            depth=depth,
            equalizer_over_without=round(statistics.median(ratios), 4),
            lowest=round(min(ratios), 4),
            highest=round(max(ratios), 4),
            looks=statistics.median(looks),
            step_ms=round(step * 1e3, 2),
            prepare_ms=round(statistics.median(prepares) * 1e3, 1),
            prepare_in_steps=round(statistics.median(prepares) / step, 2),
        )
    report.finish()


if __name__ == "__main__":
    main()
