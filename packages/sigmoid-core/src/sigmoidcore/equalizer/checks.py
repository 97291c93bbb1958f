"""Checks of what the `Equalizer` is given."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.observation.profile import watched_layers
from unstuck.observation import Ranks


def check_arguments(optimizer: Any, every: Any, tolerance: Any, floor: Any) -> None:
    """Raise a TypeError or ValueError that says what is wrong."""
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise TypeError(
            f"optimizer must be the torch.optim.Optimizer that trains the model, got {type(optimizer).__name__}"
        )
    if every != "auto" and (type(every) is not int or every < 1):
        raise ValueError(f'every must be "auto" or a number of steps of at least 1, got {every!r}')
    if not (isinstance(tolerance, Real) and 1 < float(tolerance) < math.inf):
        raise ValueError(f"tolerance must be a factor above 1, got {tolerance!r}; 2 is the usual choice")
    if not (isinstance(floor, Real) and 0 < float(floor) < 1):
        raise ValueError(f"floor must be between 0 and 1, got {floor!r}; 0.05 is the usual choice")


def cores_of(model: nn.Module, places: Mapping[str, nn.Module]) -> dict[str, SigmoidCore]:
    """The cores of a model whose gradients the Equalizer reads: all but those in the place of a normalisation."""
    watched = {name: layer for name, layer in watched_layers(model).items() if name not in places}
    cores = {name: layer for name, layer in watched.items() if isinstance(layer, SigmoidCore)}
    if not cores and not places:
        raise ValueError("the model has recurrent cores only, which the Equalizer does not read: leave it out")
    sharded = next((n for n, c in cores.items() if any(hasattr(p, "to_local") for p in c.parameters())), None)
    if sharded is not None:
        raise ValueError(
            f"the trained slopes of core '{sharded}' are sharded, and every rank needs all of them: "
            "name them in ignored_params of fully_shard, or make the cores without trainable=True"
        )
    return cores


@torch.no_grad()
def check_same(cores: Sequence[SigmoidCore], ranks: Ranks) -> None:
    """Raise a ValueError, on all ranks, if they do not have the same slopes and shifts."""
    if ranks.count > 1 and not ranks.same(
        torch.cat([part.flatten().to(cores[0].shift.device) for core in cores for part in (core.alpha, core.shift)])
    ):
        raise ValueError(
            "slopes and shifts are not the same on all ranks, and would stay apart: calibrate or prepare before "
            "DistributedDataParallel is made, or broadcast the model's state afterwards"
        )
