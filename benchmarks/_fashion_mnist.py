"""Fashion-MNIST from Debian's package `dataset-fashion-mnist`: 28 x 28 pixels, 10 classes."""

import gzip
from pathlib import Path

import numpy as np
import torch

from training import Split

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""The folder of the package's four idx files."""


def fashion_mnist(train: int = 60_000, test: int = 10_000) -> Split:
    """The first images of both parts; pixels have mean 0 and deviation 1 over the training part."""
    (train_x, train_y), (test_x, test_y) = _part("train", train), _part("t10k", test)
    mean, deviation = float(train_x.mean()), float(train_x.std())
    inputs = [torch.tensor((x - mean) / deviation, dtype=torch.float32) for x in (train_x, test_x)]
    targets = [torch.tensor(y, dtype=torch.int64) for y in (train_y, test_y)]
    return Split("fashion-mnist", inputs[0], targets[0], inputs[1], targets[1], 10)


def _part(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 784] from 0 to 1, and their classes."""
    images = gzip.decompress((FOLDER / f"{name}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FOLDER / f"{name}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)[:count]
    return pixels / 255.0, np.frombuffer(labels, np.uint8, offset=8)[:count]
