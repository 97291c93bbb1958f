"""Plain convolutional networks of sigmoids, 20 to 200 layers deep, against the usual ways to train deep networks.

Fashion-MNIST, the first 4,000 training and 2,000 test images, halved to 14 x 14 by averaging, one mean and deviation
for all pixels. 3 x 3 convolutions, 16 channels, the second with a stride of 2 (the rest run on 7 x 7), Flatten, Linear;
Adam, batch 100, 5 epochs, the rate constant for half of the steps and then falling linearly to 0, 3 seeds (2 at depth
200). Sigmoid Core and plain sigmoids take the rule's rates at 0.03, Sigmoid Core the best of three saturation levels,
every other method the best of three rates; both are found at depth 20 with seed 0. ResNet: blocks
h + conv(act(norm(conv(act(norm(h)))))) with ReLU and BatchNorm. DenseNet: each layer reads the joined outputs of all
layers of its block, growth 4, BatchNorm and ReLU before each convolution, a 1 x 1 transition to 16 channels every 10
layers and at the end. The networks are those of `peers`.
"""

import statistics
import time
from dataclasses import replace
from functools import partial

import torch
from torch import nn

import sigmoidcore as sc
from _convolutions import Setting, accuracy
from _fashion_mnist import fashion_mnist
from _report import Report, arguments
from peers import find
from training import Split

CHANNELS, SIZE = 16, 14
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
    run = partial(accuracy, channels=CHANNELS, epochs=epochs, split=split)
    best: dict[str, Setting] = {}
    for depth in (20,) if options.quick else (20, 50, 100, 200):
        for name, method in METHODS.items():
            if not report.wants(method=name, depth=depth):
                continue
            if name not in best:
                found = {setting: run(method, setting, depth=20, seed=0) for setting in method.settings()}
                best[name] = max(found, key=found.__getitem__)
            knob, lr = best[name]
            started = time.perf_counter()
            seeds = report.seeds if depth < 200 else report.seeds[:2]
            accuracies = [run(method, best[name], depth=depth, seed=seed) for seed in seeds]
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
