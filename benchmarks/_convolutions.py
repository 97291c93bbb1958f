"""One training of a plain, normalised or residual convolutional network of `sigmoidcore.peers` on images."""

import torch
from torch import nn

from sigmoidcore.peers import Method, Problem
from sigmoidcore.training import Recipe, Split, Training
from sigmoidcore.training.place import Place

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
    x, y = split.train_x[:128], split.train_y[:128]
    model = method.network(Problem(x, y, nn.functional.cross_entropy, split.classes, channels, depth), knob)
    recipe = Recipe(epochs=epochs, lr=lr, seed=seed, **method.training())
    try:
        result = Training(model, split, recipe, place=Place(device)).run()
    except FloatingPointError:
        return 100 / split.classes
    return round(result.accuracies[-1], 2)
