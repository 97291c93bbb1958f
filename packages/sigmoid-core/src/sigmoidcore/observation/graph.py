"""Who feeds whom: the cores of a model along PyTorch's autograd graph.

Of a training step, the graph is that of all cores (`find_trunk`). A pass that sets slopes cuts it at the cores
(`Segments`). `conversion.dataflow` asks the same of a model that does not run.
"""

from collections.abc import Iterable, Mapping, Sequence
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


class Trunk(NamedTuple):
    """The cores that no other way leads around: all of the gradient of those before passes through them."""

    cores: list[int]  # by their indices, from the inputs to the outputs
    normalised: set[int]  # cores that feed others through a normalisation only, which undoes what a slope gives


class Link(NamedTuple):
    """The way from one core to another."""

    name: str  # of the core at its beginning
    normalised: bool  # whether it passes a normalisation


def find_trunk(passes: Mapping[str, Sequence[CorePass]], ends: Iterable[Node]) -> Trunk:
    """The trunk in a sampled step, from the outputs' nodes on; all cores if the graph cannot be followed."""
    last = len(passes)
    if last > FOLLOWED or any(p.again for of_core in passes.values() for p in of_core):
        return Trunk(list(range(last)), set())
    places = {name: i for i, name in enumerate(passes)} | {OUTPUT: last}
    links = [{places[name]: link for name, link in fed.items()} for fed in consumers(passes, ends).values()]
    readers = [set(of_core) or {last} for of_core in links]
    normalised = {i for i, of_core in enumerate(links) if of_core and all(link.normalised for link in of_core.values())}
    return Trunk(_not_jumped(readers, _topological_order(readers)), normalised)


def consumers(passes: Mapping[str, Sequence[CorePass]], ends: Iterable[Node] = ()) -> dict[str, dict[str, Link]]:
    """For every core the cores that it feeds directly, and OUTPUT if it feeds one of the ends of the graph.

    Each with the way there: whether always through a normalisation.
    """
    every = [(name, p) for name, of_core in passes.items() for p in of_core]
    entries = {p.entry: name for name, p in every if p.entry is not None}
    starts = [(name, before) for entry, name in entries.items() for before, _ in entry.next_functions]
    ways = [(name, link) for name, before in starts for link in _met_first([before], entries)]
    ways += [(OUTPUT, link) for link in _met_first(ends, entries)]
    found: dict[str, dict[str, Link]] = {name: {} for name in passes}
    for reader, link in ways:
        other = found[link.name].get(reader, link)
        found[link.name][reader] = Link(link.name, other.normalised and link.normalised)
    return found


def _met_first(starts: Iterable[Node | None], among: Mapping[Node, str]) -> set[Link]:
    """The ways from the nodes that walks back from `starts` meet first."""
    waiting = [(start, False) for start in starts]
    visited: set[tuple[Node, bool]] = set()
    found: set[Link] = set()
    while waiting:
        at, normalised = waiting.pop()
        if at is None or (at, normalised) in visited:
            continue
        visited.add((at, normalised))
        if at in among:
            found.add(Link(among[at], normalised))
        elif not hasattr(at, "variable"):
            normalised = normalised or _normalises(at)
            waiting.extend((before, normalised) for before, _ in at.next_functions)
    return found


def _normalises(node: Node) -> bool:
    """Whether a node is that of a normalisation by the signal, which undoes the size of what it reads."""
    return any(name in node.name() for name in _NORMS)


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
