"""Overhead: a training run with the Equalizer at its default cadence over one without; the time of `prepare`.

Digits, width 64, depths 100 and 1,000, batch 100. Runs of 10 epochs (140 steps) with and without alternate; the ratio
is the median over pairs. `prepare` sees one batch of 100, too, and is counted in training steps (forward, backward,
Adam).
"""

import statistics
import time

import torch
from torch import nn

import sigmoidcore as sc
from _report import Report, arguments
from sigmoidcore.training import digits, train


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    pairs, epochs = (2, 2) if options.quick else (7, 10)
    report = Report(
        "overhead",
        options,
        key=("depth",),
        seeds=[0],
        settings={"width": 64, "batch": 100, "epochs": epochs, "pairs": pairs},
    )
    split = digits()
    x, y = split.train_x[:100], split.train_y[:100]
    for depth in (100,) if options.quick else (100, 1000):
        if not report.wants(depth=depth):
            continue
        ratios, steps, prepares, samples = [], [], [], []
        for pair in range(pairs):
            seconds = {}
            for equalize in (True, False) if pair % 2 else (False, True):
                torch.manual_seed(pair)
                model = sc.MLP(64, 64, depth, 10)
                started = time.perf_counter()
                sc.prepare(model, x, targets=y, loss_fn=nn.functional.cross_entropy)
                prepares.append(time.perf_counter() - started)
                count = []
                result = train(
                    model,
                    split,
                    epochs=epochs,
                    seed=pair,
                    equalize=equalize,
                    on_step=lambda p, count=count: count.append(len(p.equalizer.history) if p.equalizer else 0),
                )
                seconds[equalize] = result.seconds
                if equalize:
                    samples.append(count[-1])
            ratios.append(seconds[True] / seconds[False])
            steps.append(seconds[False] / (epochs * 14))
        step = statistics.median(steps)
        report.add(
            depth=depth,
            equalizer_over_without=round(statistics.median(ratios), 4),
            looks=statistics.median(samples),
            step_ms=round(step * 1e3, 2),
            prepare_ms=round(statistics.median(prepares) * 1e3, 1),
            prepare_in_steps=round(statistics.median(prepares) / step, 2),
        )
    report.finish()


if __name__ == "__main__":
    main()
