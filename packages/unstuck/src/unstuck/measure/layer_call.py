"""A call of a function that makes a layer, as a pass follows it."""

from dataclasses import dataclass, field

import torch

from unstuck.measure.measurement import Role
from unstuck.measure.statistics import Sums
from unstuck.step.node import Node


@dataclass
class LayerCall:
    """A layer while its pass is running; `measurement.Layer` explains the first fields."""

    node: Node
    name: str
    module: str
    kind: str
    role: Role
    sources: int  # as bits
    weights: tuple[str, ...]
    dim: int  # counts features
    ours: bool = False  # its module is a core, which may scale its output
    gate: bool = False
    attends: bool = False
    scale: float = 1.0  # a core multiplies the function's result by this
    scaled_by: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    reads: int = -1
    read_by: str = ""
    in_loss: bool = False  # the loss reads it, moved or reshaped at most
    dtype: torch.dtype = torch.float32
    alike: str = ""  # the function of which a layer of another package is a kind
    sums: Sums = field(default_factory=Sums)

    @property
    def function(self) -> str:
        """The name of the function."""
        return self.node.function
