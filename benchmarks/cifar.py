"""CIFAR-10: plain convolutional networks of 20, 50 and 100 layers beside those with normalisation or skip connections.

`--data` is an .npz file with x_train [n, 32, 32, 3] (uint8), y_train, x_test and y_test, or a folder for torchvision's
CIFAR-10, which is downloaded there if it is missing. Images are shuffled with a fixed seed. By default they are halved
to 16 x 16 by averaging; `--size 32 --channels 32 --augment` (shifts by up to 4 pixels, mirror images) is meant for
`--device cuda`. 3 x 3 convolutions, the second with a stride of 2, Flatten, Linear; Adam, batch 100, the rate constant
for half of the steps and then falling to 0. The networks are those of `peers`.

Sigmoid Core has the rule's rates at 0.03 and the saturation 0.5, so no setting is tried for it. Every other method has
the best of its rates and of its knob's values, found at 20 layers with a seed that is not reported, by the accuracy on
the test images, which favours it: `settings` counts them.
"""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from _convolutions import Setting, accuracy
from _report import Report, arguments
from peers import find
from training import Split

CLASSES, TUNING_SEED = 10, 100
RATES = (0.0003, 0.001, 0.003)
METHODS = ("sigmoid-core", "tanh-orthogonal", "dks", "batchnorm-sigmoid", "resnet", "resnet-zero")


class Augmented(Split):
    """Each training batch is shifted by up to 4 pixels, and every second one mirrored."""

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().train_batches(batch_size, seed, epoch):
            left, top = torch.randint(9, (2,)).tolist()
            padded = nn.functional.pad(x.flip(3) if torch.rand(()) < 0.5 else x, (4, 4, 4, 4))
            yield padded[:, :, top : top + x.shape[2], left : left + x.shape[3]], y


def arrays(path: Path) -> list[np.ndarray]:
    """Training images and classes, test images and classes."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    from torchvision.datasets import CIFAR10

    parts = [CIFAR10(path, train=train, download=True) for train in (True, False)]
    return [values for part in parts for values in (part.data, np.array(part.targets))]


def images(path: Path, size: int, count: int, kind: type[Split]) -> Split:
    """Pixels have mean 0 and deviation 1 over the training images."""
    random = np.random.default_rng(0)
    tensors: list[Tensor] = []
    x_train, y_train, x_test, y_test = arrays(path)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        order = random.permutation(len(x))[:count]
        pixels = torch.tensor(x[order], dtype=torch.float32).permute(0, 3, 1, 2) / 255
        tensors += [nn.functional.avg_pool2d(pixels, 32 // size), torch.tensor(y[order], dtype=torch.int64)]
    mean, deviation = tensors[0].mean(), tensors[0].std()
    return kind(
        "cifar-10", (tensors[0] - mean) / deviation, tensors[1], (tensors[2] - mean) / deviation, tensors[3], CLASSES
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="an .npz file, or torchvision's folder"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--size", type=int, choices=(16, 32), default=16, help="side of the images (default: 16)")
    parser.add_argument("--channels", type=int, default=16, metavar="N", help="of every convolution (default: 16)")
    parser.add_argument("--augment", action="store_true", help="shift and mirror the training images")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="(default: 5)")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    epochs, count = (1, 300) if options.quick else (options.epochs, 60_000)
    split = images(options.data, options.size, count, Augmented if options.augment else Split)
    report = Report(
        "cifar",
        options,
        key=("method", "depth"),
        seeds=[0] if options.quick else [0, 1, 2],
        settings={
            "channels": options.channels,
            "images": [len(split.train_x), len(split.test_x)],
            "size": options.size,
            "augment": options.augment,
            "batch": 100,
            "epochs": epochs,
            "rates": RATES,
            "device": options.device,
        },
    )

    run = partial(accuracy, channels=options.channels, epochs=epochs, split=split, device=options.device)
    best: dict[str, Setting] = {}
    for depth in (20,) if options.quick else (20, 50, 100):
        for name in METHODS:
            if not report.wants(method=name, depth=depth):
                continue
            method = find(name)
            settings = method.settings(RATES)
            if name not in best:
                found = [run(method, s, depth=20, seed=TUNING_SEED) if settings[1:] else 0.0 for s in settings]
                best[name] = settings[int(np.argmax(found))]
            started = time.perf_counter()
            accuracies = [run(method, best[name], depth=depth, seed=seed) for seed in report.seeds]
            report.add(
                method=name,
                depth=depth,
                settings=len(settings),
                knob=best[name][0],
                rate=best[name][1],
                accuracy=round(statistics.mean(accuracies), 2),
                accuracies=accuracies,
                seconds=round((time.perf_counter() - started) / len(report.seeds), 1),
            )
    report.finish()


if __name__ == "__main__":
    main()
