"""A call of a function that makes a layer, as a pass follows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from unstuck.measure.measurement import Role
from unstuck.measure.statistics import Sums
from unstuck.measure.tensor_origin import Origin


@dataclass
class LayerCall:
    """A layer while its pass is running; `measurement.Layer` explains the first fields."""

    name: str
    module: str
    kind: str
    role: Role
    sources: int  # as bits
    weights: tuple[str, ...]
    function: str
    dim: int  # counts features
    gate: bool = False
    attends: bool = False
    scale: float = 1.0  # a core multiplies the function's result by this
    scaled_by: tuple[str, ...] = ()
    disjoint: bool = False
    shape: tuple[int, ...] = ()
    softmax_dim: int | None = None
    reads: int = -1
    in_loss: bool = False  # the loss reads it, moved or reshaped at most
    dtype: torch.dtype = torch.float32
    alike: str = ""  # the function of which a layer of another package is a kind
    sums: Sums = field(default_factory=Sums)


def joins_steps(name: str, origins: Sequence[Origin], layers: Sequence[LayerCall]) -> bool:
    """Whether a function joins the states of one recurrent cell, after several steps."""
    if name not in ("stack", "cat", "concat") or any(origin.producer < 0 for origin in origins):
        return False
    joined = [layers[origin.producer] for origin in origins]
    return len({layer.module for layer in joined}) == 1 and all(layer.function.endswith("_cell") for layer in joined)
