"""Accidents: what goes wrong in both networks in the middle of a training, and what the Equalizer undoes."""

from collections.abc import Iterable

import torch
from torch import nn

from sigmoidcore.lab.datasets import DataSet

ACCIDENTS = "weights", "inputs", "half"
FACTOR, OFFSET, SHUT = 3.0, 5.0, 10.0


@torch.no_grad()
def happen(accident: str, models: Iterable[nn.Module], data: DataSet) -> DataSet:
    """All hidden weights times 3, all inputs + 5 from now on, or half of the middle layer shut; returns the data."""
    if accident == "inputs":
        return data.moved(OFFSET)
    for model in models:
        hidden = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][:-1]
        if accident == "weights":
            for layer in hidden:
                layer.weight.mul_(FACTOR)
        else:
            middle = hidden[len(hidden) // 2]
            middle.bias[: len(middle.bias) // 2].sub_(SHUT)
    return data
