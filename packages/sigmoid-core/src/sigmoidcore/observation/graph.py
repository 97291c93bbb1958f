"""How the cores of a model depend on one another: which are on the trunk, and which on side branches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate

from torch.autograd.graph import Node

from sigmoidcore._torch.autograd import Link, met_first
from sigmoidcore.observation.gradients import FOLLOWED, OUTPUT, CorePass


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
    behind: list[list[int]] = [[k for k in of_core if k < last and k not in side] for of_core in links]
    for i in side:
        behind[i] = []
    normalised = {i for i, of_core in enumerate(links) if of_core and all(link.normalised for link in of_core.values())}
    return Graph(set(trunk), side, behind, normalised)


def consumers(passes: Mapping[str, Sequence[CorePass]], ends: Iterable[Node] = ()) -> dict[str, dict[str, Link]]:
    """For every core the cores that it feeds directly, and OUTPUT if it feeds one of the ends of the graph.

    Each with the way there: whether always through a normalisation, and whether ever through a product.
    """
    exits = {p.exit: name for name, of_core in passes.items() for p in of_core if p.exit is not None}
    ways = [(name, link) for name, of_core in passes.items() for p in of_core for link in met_first(p.inputs, exits)]
    ways += [(name, Link(p.before, False, False)) for name, of_core in passes.items() for p in of_core if p.before]
    ways += [(OUTPUT, link) for link in met_first(ends, exits)]
    found: dict[str, dict[str, Link]] = {name: {} for name in passes}
    for reader, link in ways:
        before = found[link.name].get(reader, Link(reader, True, False))
        found[link.name][reader] = Link(
            reader, before.normalised and link.normalised, before.multiplied or link.multiplied
        )
    return found


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
