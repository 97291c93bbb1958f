"""One training of a plain, normalised or residual convolutional network of `peers` on images."""

import torch

from peers import Method, Problem
from training import DivergedError, Split, train

Setting = tuple[float | None, float]
"""A value of the method's knob, and a rate."""


def accuracy(
    method: Method,
    setting: Setting,
    *,
    depth: int,
    channels: int,
    seed: int,
    epochs: int,
    split: Split,
    device: str = "cpu",
) -> float:
    """Test accuracy in percent; that of chance if the loss did not stay finite."""
    knob, lr = setting
    torch.manual_seed(seed)
    problem = Problem(split.train_x[:128], split.train_y[:128], split.classes, channels, depth)
    model = method.network(problem, knob)
    try:
        result = train(model, split, epochs=epochs, lr=lr, seed=seed, device=device, **method.training())
    except DivergedError:
        return 100 / split.classes
    return round(result.accuracies[-1], 2)
