"""Where the tensors of a forward pass come from: queries over its recorded calls."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from unstuck.measure import calls
from unstuck.measure.layer_call import LayerCall
from unstuck.measure.views import Shapes, swapped_shapes
from unstuck.step.node import Node


class Origin(NamedTuple):
    """Where a tensor comes from."""

    sources: int = 0  # the last layers on its ways, as bits
    weights: tuple[str, ...] = ()  # its parameters, if it comes from no layer
    dim: int = -1  # counts features
    constant: bool = False  # it is computed from parameters only
    beyond: bool = False  # another network has computed it from outputs of the model


UNKNOWN = Origin()


class Flow:
    """The layers of a forward pass, and the calls that it has followed, its loss included.

    Calls of other passes are unknown to it.
    """

    def __init__(self) -> None:
        self.layers: list[LayerCall] = []
        self.calls: list[Node] = []
        self.loss: tuple[str, str] | None = None  # the last loss function that was called, and the layer that it read
        self.swaps: dict[str, Shapes] = {}  # by the layer or the function that reads such a view
        self.dropouts: list[float] = []  # the shares that they drop
        self._places: dict[Node, int] = {}
        self.origins: dict[Node, Origin] = {}  # of the results of calls and of parameters

    def add(self, layer: LayerCall) -> None:
        """A call has made a layer."""
        self._places[layer.node] = len(self.layers)
        self.origins[layer.node] = Origin(1 << len(self.layers), dim=layer.dim)
        self.layers.append(layer)

    def origin(self, node: Node) -> Origin:
        """Where a tensor comes from."""
        found = self.origins.get(node)
        if found is not None:
            return found
        if node.op == "parameter":
            self.origins[node] = found = Origin(0, (node.target,) if len(node.shape) > 1 else (), constant=True)
            return found
        if node.function == "getitem" and node.reads[0].dtype is None:  # one of several results of a call
            floating = node.dtype is None or node.dtype.is_floating_point or node.dtype.is_complex
            return self.origin(node.reads[0]) if floating else UNKNOWN
        return UNKNOWN

    def producer(self, node: Node) -> int:
        """The position of the layer whose output a tensor is, moved or reshaped at most; -1 without one."""
        while node not in self._places and node.reads and (node.function in calls.MOVES or self._keeps(node)):
            node = node.reads[0]
        return self._places.get(node, -1)

    def _keeps(self, node: Node) -> bool:
        """Whether the result of a call that moves nothing is an output of the layer that its first argument is of."""
        if node.function in calls.SCALINGS:
            return self.scaled_core(node) is not None
        if node.function not in ("stack", "cat", "concat"):
            return False
        joined = [self.layer(read) for read in node.reads]  # the states of one recurrent cell, after several steps
        cells = {layer.module for layer in joined if layer is not None and layer.function.endswith("_cell")}
        return len(cells) == 1 and None not in joined

    def layer(self, node: Node) -> LayerCall | None:
        """The layer whose output a tensor is, moved or reshaped at most."""
        place = self.producer(node)
        return self.layers[place] if place >= 0 else None

    def scaled_core(self, node: Node) -> LayerCall | None:
        """The core whose output a call multiplies by a number, in the core's module."""
        number = node.function in calls.SCALINGS and node.reads and isinstance(node.args[-1], int | float)
        core = self.layer(node.reads[0]) if number and node.module is not None else None
        return core if core is not None and core.ours and core.module == node.module else None

    def read(self, node: Any) -> str:
        """The name of the layer whose output an argument of a call is, moved or reshaped at most; "" without one."""
        layer = self.layer(node) if isinstance(node, Node) else None
        return "" if layer is None else layer.name

    def summed(self, node: Node) -> str:
        """The name of the layer whose output a tensor is, summed."""
        while len(node.reads) == 1 and node.function in calls.ADDITIONS | calls.MOVES:
            node = node.reads[0]
        return self.read(node.reads[0]) if node.function == "sum" and node.reads else ""

    def swapped(self, node: Node) -> Shapes | None:
        """The shapes of a view behind a tensor that takes dimensions for others and moves no number.

        Something may be added to the view, such as an embedding of places.
        """
        while node.reads and (node.function in calls.MOVES or node.function in calls.ADDITIONS):
            before = self.origin(node.reads[0])
            if before is UNKNOWN and node.module is None:
                return None
            if shapes := swapped_shapes(node.function, node.reads[0].shape, before.dim, node.shape):
                return None if before.constant else shapes
            node = node.reads[0]
        return None


def sources_of(origins: Sequence[Origin]) -> int:
    """The layers on the ways of several tensors."""
    sources = 0
    for origin in origins:
        sources |= origin.sources
    return sources


def weights_of(origins: Sequence[Origin]) -> tuple[str, ...]:
    """The parameters of several tensors."""
    return tuple(dict.fromkeys([w for origin in origins for w in origin.weights]))


def bits(number: int) -> list[int]:
    """Places of the bits that are set, ascending."""
    found = []
    while number:
        lowest = number & -number
        found.append(lowest.bit_length() - 1)
        number ^= lowest
    return found
