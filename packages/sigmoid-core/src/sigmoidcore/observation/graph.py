"""Who feeds whom: the cores of a model along PyTorch's autograd graph.

Of a training step, the graph is that of all cores (`find_graph`). A pass that sets slopes cuts it at the cores
(`Segments`). `conversion.dataflow` asks the same of a model that does not run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence
from torch.utils.weak import WeakTensorKeyDictionary

from sigmoidcore.observation.gradients import FOLLOWED, OUTPUT, CorePass
from unstuck.observation import bare, nodes_behind

_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm")
"""In the names of the nodes of normalisations by the signal (InstanceNorm is a BatchNorm there)."""
_PRODUCTS = ("Mul", "Div", "Bmm", "Baddbmm", "Lerp", "Addcmul", "Addcdiv", "ScaledDotProduct")
"""In the names of the nodes of products, whose factors may be signals or weights."""
_LAYERS = ("Addmm", "Mm", "Linear", "Convolution")
"""In the names of the nodes of layers: what comes out of them is a signal."""


@dataclass(frozen=True)
class Graph:
    """The graph of the cores, by their indices."""

    trunk: set[int]  # cores that no other way leads around: all of the gradient of those before passes through them
    # cores off the trunk whose way ends in a product with another signal: gates, experts, towers. The size of their
    # gradient is that of the other signal, and so no slope can make it level.
    side: set[int]
    # for each core, those whose gradient it should equal: the cores that it feeds, but not those on side branches;
    # none on a side branch
    behind: list[list[int]]
    normalised: set[int]  # cores that feed others through a normalisation only, which undoes what a slope gives


class Link(NamedTuple):
    """The way from one core to another."""

    name: str  # of the core at its beginning
    normalised: bool  # whether it passes a normalisation
    multiplied: bool  # whether it passes a product with another signal: a gate, attention, a mixture


def find_graph(passes: Mapping[str, Sequence[CorePass]], ends: Iterable[Node]) -> Graph:
    """The graph of the cores of a sampled step, from the outputs' nodes on; a chain if it cannot be followed."""
    last = len(passes)
    if last > FOLLOWED or any(p.again for of_core in passes.values() for p in of_core):
        return Graph(set(range(last)), set(), [[i] for i in range(1, last)] + [[]], set())
    places = {name: i for i, name in enumerate(passes)} | {OUTPUT: last}
    links = [{places[name]: link for name, link in fed.items()} for fed in consumers(passes, ends).values()]
    readers = [set(of_core) or {last} for of_core in links]
    order = _topological_order(readers)
    trunk = _not_jumped(readers, order)
    side: set[int] = set()
    for i in reversed(order):
        if i not in trunk and (
            any(link.multiplied for link in links[i].values()) or (links[i] and side.issuperset(links[i]))
        ):
            side.add(i)
    behind = [[] if i in side else [k for k in fed if k < last and k not in side] for i, fed in enumerate(links)]
    normalised = {i for i, of_core in enumerate(links) if of_core and all(link.normalised for link in of_core.values())}
    return Graph(set(trunk), side, behind, normalised)


def consumers(passes: Mapping[str, Sequence[CorePass]], ends: Iterable[Node] = ()) -> dict[str, dict[str, Link]]:
    """For every core the cores that it feeds directly, and OUTPUT if it feeds one of the ends of the graph.

    Each with the way there: whether always through a normalisation, and whether ever through a product.
    """
    every = [(name, p) for name, of_core in passes.items() for p in of_core]
    entries = {p.entry: name for name, p in every if p.entry is not None}
    starts = [(name, before) for entry, name in entries.items() for before, _ in entry.next_functions]
    ways = [(name, link) for name, before in starts for link in _met_first([before], entries)]
    ways += [(OUTPUT, link) for link in _met_first(ends, entries)]
    found: dict[str, dict[str, Link]] = {name: {} for name in passes}
    for reader, link in ways:
        other = found[link.name].get(reader, link)
        normalised, multiplied = other.normalised and link.normalised, other.multiplied or link.multiplied
        found[link.name][reader] = Link(link.name, normalised, multiplied)
    return found


def _met_first(starts: Iterable[Node | None], among: Mapping[Node, str]) -> set[Link]:
    """The ways from the nodes that walks back from `starts` meet first."""
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
            normalised, multiplied = normalised or _normalises(at), multiplied or _multiplies_signals(at, among)
            waiting.extend((before, normalised, multiplied) for before, _ in at.next_functions)
    return found


def _normalises(node: Node) -> bool:
    """Whether a node is that of a normalisation by the signal, which undoes the size of what it reads."""
    return any(name in node.name() for name in _NORMS)


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


def _topological_order(fed: list[set[int]]) -> list[int]:
    """The cores, inputs to outputs; empty if a core runs several times, one time after another."""
    sorter = TopologicalSorter({i: () for i in range(len(fed))})
    for i, readers in enumerate(fed):
        for k in readers:
            sorter.add(k, i)
    try:
        return [i for i in sorter.static_order() if i < len(fed)]
    except CycleError:
        return []


def _not_jumped(fed: list[set[int]], order: list[int]) -> list[int]:
    """The cores, in order, that no edge leads past, those from the inputs and to the outputs (the last) included."""
    place = {i: at for at, i in enumerate(order)} | {len(fed): len(order)}
    with_source = set().union(*fed) if fed else set()
    change = [0] * (len(order) + 2)
    for i in order:
        for first, behind in [(place[i], place[k]) for k in fed[i]] + [(-1, place[i])] * (i not in with_source):
            change[first + 1] += 1
            change[behind] -= 1
    return [i for i, edges in zip(order, accumulate(change), strict=False) if edges == 0]


class Segments:
    """A forward pass in segments: the graph is cut at the outputs of cores, the leaves of the segments behind them."""

    def __init__(self) -> None:
        self._names = WeakTensorKeyDictionary()

    def cut(self, name: str, output: Any) -> Any:
        """The output of a core, or outputs and last states of a recurrent layer, as leaves of the next segments."""
        if isinstance(output, PackedSequence):
            return output._replace(data=self.cut(name, output.data))
        if not isinstance(output, Tensor):
            return tuple(self.cut(name, part) for part in output)
        leaf = bare(output).requires_grad_()
        self._names[leaf] = name
        return leaf.clone()  # the model may change it in place

    def behind(self, x: Tensor) -> tuple[list[Tensor], list[str], bool]:
        """Of the segment that ends in a tensor: its leaves, their cores, and whether it contains a normalisation."""
        nodes = list(nodes_behind(x))
        leaves = [node.variable for node in nodes if hasattr(node, "variable") and node.variable in self._names]
        return leaves, [self._names[leaf] for leaf in leaves], any(map(_normalises, nodes))
