"""Who feeds whom: the cores of a model along PyTorch's autograd graph.

Of a training step, the graph is that of all cores (`find_trunk`). A pass that sets slopes cuts it at the cores
(`Segments`). `conversion.dataflow` asks the same of a model that does not run.
"""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence
from torch.utils.weak import WeakTensorKeyDictionary

from sigmoidcore.observation.gradients import FOLLOWED, CorePass
from unstuck.observation import bare, nodes_behind

_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm")  # in names of nodes (InstanceNorm: BatchNorm)


class Trunk(NamedTuple):
    """The cores that no other way leads around: all of the gradient of those before passes through them."""

    cores: list[int]  # by their indices, from the inputs to the outputs
    normalised: set[int]  # cores that feed others through a normalisation only, which undoes what a slope gives


def find_trunk(passes: Mapping[str, Sequence[CorePass]], ends: Iterable[Node]) -> Trunk:
    """The trunk in a sampled step, from the outputs' nodes on; all cores if the graph cannot be followed."""
    last = len(passes)
    if last > FOLLOWED or any(p.again for of_core in passes.values() for p in of_core):
        return Trunk(list(range(last)), set())
    entries = {p.entry: i for i, of_core in enumerate(passes.values()) for p in of_core if p.entry is not None}
    readers: list[set[int]] = [set() for _ in passes]  # the cores that each one feeds directly, or the outputs (last)
    plain: set[int] = set()  # cores that feed something without a normalisation on the way
    starts = [(i, [before]) for entry, i in entries.items() for before, _ in entry.next_functions]
    for reader, nodes in [*starts, (last, ends)]:
        for core, normalised in _met_first(nodes, entries):
            readers[core].add(reader)
            if not normalised:
                plain.add(core)
    normalised_only = {i for i, of_core in enumerate(readers) if of_core} - plain
    return Trunk(_not_jumped([of_core or {last} for of_core in readers]), normalised_only)


def _met_first(starts: Iterable[Node | None], among: Mapping[Node, int]) -> set[tuple[int, bool]]:
    """The cores whose nodes walks back from `starts` meet first, and whether the way passes a normalisation."""
    waiting = [(start, False) for start in starts]
    visited: set[tuple[Node, bool]] = set()
    found: set[tuple[int, bool]] = set()
    while waiting:
        at, normalised = waiting.pop()
        if at is None or (at, normalised) in visited:
            continue
        visited.add((at, normalised))
        if at in among:
            found.add((among[at], normalised))
        elif not hasattr(at, "variable"):
            normalised = normalised or _normalises(at)
            waiting.extend((before, normalised) for before, _ in at.next_functions)
    return found


def _normalises(node: Node) -> bool:
    """Whether a node is that of a normalisation by the signal, which undoes the size of what it reads."""
    return any(name in node.name() for name in _NORMS)


def _not_jumped(readers: Sequence[set[int]]) -> list[int]:
    """The cores, inputs to outputs, that no edge leads past, those from the inputs and to the outputs included.

    Without any if a core runs several times, one time after another. Of cores side by side, an edge jumps each.
    """
    try:
        *cores, outputs = reversed([*TopologicalSorter(dict(enumerate(readers))).static_order()])
    except CycleError:
        return []
    place = {i: at for at, i in enumerate([*cores, outputs])}
    furthest = max(place[i] for i in set(cores).difference(*readers))  # that an edge has reached so far
    found = []
    for i in cores:
        if place[i] >= furthest:
            found.append(i)
        furthest = max(furthest, *(place[k] for k in readers[i]))
    return found


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
