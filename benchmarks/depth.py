"""Depth: spread of the gradient profile after `prepare` on a batch it has not seen, and test accuracy after training.

Digits (1,400 train, 397 test), width 64, Adam with the rule's rates, batch 100, 10 epochs, 5 seeds; at 10,000 layers
one seed and `--epochs-10000` epochs. Saturation 0.5, and 0.35 from 1,000 layers on: nearer to linear generalises
better there. `prepare` sees 256 training samples; the spread is measured with the loss on the test set. Plain
networks: the same with nn.Sigmoid, PyTorch's default weights and the same rates.
"""

import statistics
import time
from dataclasses import replace

import torch
from torch import nn

import sigmoidcore as sc
from _report import Report, arguments
from peers import Problem, find
from training import digits, train

METHODS = {
    "core": replace(find("sigmoid-core"), knob="saturation", knobs=(0.5, 0.35)),
    "plain": replace(find("sigmoid"), recipe={"rates": sc.depth_scaled_lr}),
}
loss_fn = nn.functional.cross_entropy


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs-10000", type=int, default=20, help="epochs at 10,000 layers")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    depths = [10, 100] if options.quick else [10, 100, 1000, 10_000]
    report = Report(
        "depth",
        options,
        key=("method", "depth"),
        seeds=list(range(2 if options.quick else 5)),
        settings={
            "width": 64,
            "batch": 100,
            "epochs": 10,
            "epochs at 10,000": options.epochs_10000,
            "lr": 0.03,
            "saturation": {"below 1,000": 0.5, "from 1,000": 0.35},
        },
    )
    split = digits()
    for depth in depths:
        for name, method in METHODS.items():
            if not report.wants(method=name, depth=depth) or (name == "plain" and depth > 1000):
                continue
            seeds = report.seeds if depth < 10_000 else report.seeds[:1]
            epochs = 10 if depth < 10_000 else options.epochs_10000
            problem = Problem(*split.probes(), 10, 64, depth)
            accuracies, spreads, seconds, prepared = [], [], [], []
            for seed in seeds:
                torch.manual_seed(seed)
                started = time.perf_counter()
                model = method.network(problem, 0.5 if depth < 1000 else 0.35)
                prepared.append(time.perf_counter() - started)
                sc.convert(model)  # a new SigmoidCore is nn.Sigmoid, bit for bit, and its profile can be measured
                spreads.append(sc.gradient_profile(model, split.test_x, split.test_y, loss_fn).spread)
                result = train(model, split, epochs=epochs, seed=seed, **method.training())
                accuracies.append(result.accuracies[-1])
                seconds.append(result.seconds)
            report.add(
                method=name,
                depth=depth,
                spread=max(spreads),
                accuracy=statistics.median(accuracies),
                accuracies=[round(a, 2) for a in accuracies],
                epochs=epochs,
                prepare_seconds=round(statistics.median(prepared), 3),
                seconds=round(statistics.median(seconds), 2),
            )
    report.finish()


if __name__ == "__main__":
    main()
