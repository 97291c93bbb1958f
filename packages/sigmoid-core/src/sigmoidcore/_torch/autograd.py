"""Questions to PyTorch's autograd that only the method has: which way a signal takes."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch.autograd.graph import Node

from unstuck.observation import accumulates

_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm")
"""In the names of the nodes of normalisations by the signal (InstanceNorm is a BatchNorm there)."""
_PRODUCTS = ("Mul", "Div", "Bmm", "Baddbmm", "Lerp", "Addcmul", "Addcdiv", "ScaledDotProduct")
"""In the names of the nodes of products, whose factors may be signals or weights."""
_LAYERS = ("Addmm", "Mm", "Linear", "Convolution")
"""In the names of the nodes of layers: what comes out of them is a signal."""


def asks_for(nodes: Iterable[Node | None]) -> bool:
    """Whether the backward pass that is running needs a gradient at any of these nodes; that of some inputs may not."""
    return any(node is not None and accumulates(node, unknown=True) for node in nodes)


def normalises(node: Node) -> bool:
    """Whether a node is that of a normalisation by the signal, which undoes the size of what it reads."""
    return any(name in node.name() for name in _NORMS)


class Link(NamedTuple):
    """The way from one node to another."""

    name: str  # of the node at its end
    normalised: bool  # whether it passes a normalisation
    multiplied: bool  # whether it passes a product with another signal: a gate, attention, a mixture


def met_first(starts: Iterable[Node | None], among: Mapping[Node, str]) -> set[Link]:
    """The ways to the nodes that walks back from `starts` meet first."""
    waiting = [(start, False, False) for start in starts]
    visited: set[tuple[Node, bool, bool]] = set()
    found: set[Link] = set()
    while waiting:
        at, normalised, multiplied = waiting.pop()
        if at is None or (at, normalised, multiplied) in visited:
            continue
        visited.add((at, normalised, multiplied))
        if at in among:
            found.add(Link(among[at], normalised, multiplied))
        elif not hasattr(at, "variable"):
            normalised, multiplied = normalised or normalises(at), multiplied or _multiplies_signals(at, among)
            waiting.extend((before, normalised, multiplied) for before, _ in at.next_functions)
    return found


def _multiplies_signals(node: Node, among: Mapping[Node, str]) -> bool:
    """Whether a node multiplies two signals; a signal by a weight or a constant does not count."""
    name = node.name()
    if "Glu" in name:
        return True
    factors = [before for before, _ in node.next_functions if before is not None]
    return any(kind in name for kind in _PRODUCTS) and sum(_is_signal(factor, among) for factor in factors) > 1


def _is_signal(node: Node, among: Mapping[Node, str]) -> bool:
    """Whether the walk back from a node meets one of those among, or a layer."""
    waiting, visited = [node], {node}
    while waiting:
        at = waiting.pop()
        if at in among or any(kind in at.name() for kind in _LAYERS):
            return True
        new = {before for before, _ in at.next_functions if before is not None} - visited
        visited |= new
        waiting.extend(new)
    return False
