"""Plain convolutional networks of sigmoids, 20 to 200 layers deep, against the usual ways to train deep networks.

Fashion-MNIST, the first 4,000 training and 2,000 test images, halved to 14 x 14 by averaging, one mean and deviation
for all pixels. 3 x 3 convolutions, 16 channels, the second with a stride of 2 (the rest run on 7 x 7), Flatten, Linear;
Adam, batch 100, 5 epochs, the rate constant for half of the steps and then falling linearly to 0, 3 seeds (2 at depth
200). Sigmoid Core and plain sigmoids take the rule's rates at 0.03, Sigmoid Core the best of three saturation levels,
every other method the best of three rates; both are found at depth 20 with seed 0. ResNet: blocks
h + conv(act(norm(conv(act(norm(h)))))) with ReLU and BatchNorm. DenseNet: each layer reads the joined outputs of all
layers of its block, growth 4, BatchNorm and ReLU before each convolution, a 1 x 1 transition to 16 channels every 10
layers and at the end. The networks are those of `sigmoidcore.peers`.
"""

import statistics
import time
from dataclasses import replace

import torch
from torch import nn

import sigmoidcore as sc
from _fashion_mnist import fashion_mnist
from _report import Report, arguments
from sigmoidcore.peers import Method, Problem, find
from sigmoidcore.training import Split, train

CHANNELS, SIZE, CLASSES = 16, 14, 10
RATES = (0.0003, 0.001, 0.003)
SATURATIONS = (0.5, 1.0, 2.0)


METHODS = {
    "sigmoid core": replace(find("sigmoid-core"), knob="saturation", knobs=SATURATIONS),
    "plain sigmoid": replace(find("sigmoid"), rates=(0.03,), recipe={"rates": sc.depth_scaled_lr}),
    "relu, he": replace(find("relu-he"), rates=RATES),
    "batch norm, sigmoid": replace(find("batchnorm-sigmoid"), rates=RATES),
    "resnet": replace(find("resnet"), rates=RATES),
    "densenet": replace(find("densenet"), rates=RATES),
}


def accuracy(method: Method, depth: int, knob: float | None, lr: float, seed: int, split: Split, epochs: int) -> float:
    torch.manual_seed(seed)
    x, y = split.train_x[:128], split.train_y[:128]
    model = method.network(Problem(x, y, nn.functional.cross_entropy, CLASSES, CHANNELS, depth), knob)
    try:
        result = train(model, split, epochs=epochs, lr=lr, seed=seed, **method.training())
    except FloatingPointError:
        return 100 / CLASSES
    return round(result.accuracies[-1], 2)


def images(count: int) -> Split:
    split = fashion_mnist(count, 2000)
    halves = [nn.functional.avg_pool2d(x.reshape(-1, 1, 28, 28), 2) for x in (split.train_x, split.test_x)]
    mean, deviation = halves[0].mean(), halves[0].std()
    train_x, test_x = ((x - mean) / deviation for x in halves)
    return replace(split, train_x=train_x, test_x=test_x)


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
    best: dict[str, tuple[float | None, float]] = {}
    for depth in (20,) if options.quick else (20, 50, 100, 200):
        for name, method in METHODS.items():
            if not report.wants(method=name, depth=depth):
                continue
            if name not in best:
                found = {setting: accuracy(method, 20, *setting, 0, split, epochs) for setting in method.settings()}
                best[name] = max(found, key=found.__getitem__)
            knob, lr = best[name]
            started = time.perf_counter()
            seeds = report.seeds if depth < 200 else report.seeds[:2]
            accuracies = [accuracy(method, depth, knob, lr, seed, split, epochs) for seed in seeds]
            report.add(
                method=name,
                depth=depth,
                choice=lr if knob is None else knob,
                accuracy=round(statistics.mean(accuracies), 2),
                accuracies=accuracies,
                seconds=round((time.perf_counter() - started) / len(seeds), 1),
            )
    report.finish()


if __name__ == "__main__":
    main()
