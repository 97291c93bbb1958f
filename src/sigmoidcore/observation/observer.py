"""What a sampled step shows: the preactivations that reach the cores, and the gradients that come back to them."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from sigmoidcore._torch import eager
from sigmoidcore._torch.autograd import NONE, accumulates, backward_pass, bare, in_transform, met_first, nearest_leaf
from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.neuron_rule import in_rows
from sigmoidcore.gain import norm
from sigmoidcore.nn.fused import Listener, Stack
from sigmoidcore.observation.fused import LayerPass, StackPass

ROOM = 8
"""From so many passes of a core that wait for a gradient on, those are dropped whose graph is gone."""
FOLLOWED = 1000
"""Models of more cores are taken for chains: nodes of a graph that Python has touched are freed recursively."""
STACKED = 2**17
"""Numbers that are stacked at most, to take statistics of several layers at once while they are in the cache."""
_HALF = (torch.float16, torch.bfloat16)


class Taps:
    """Watches cores while it is attached, and is not there at all while it is not.

    A pass counts if its gradient belongs to the step to come, whichever way the user trains:

    - The gradient of a core's preactivation counts if the same backward pass goes into the `.grad` of a parameter
      before the core: that is what `backward()` does. `torch.autograd.grad` does not: derivatives by the inputs
      (physics-informed losses, gradient penalties) are on the way to the loss, and are no gradients of it.
    - Several backward passes through one graph add up, as they do in `.grad`.
    - What was seen before `zero_grad` is forgotten at the next forward pass, or when the next gradient arrives: its
      step was skipped, by a gradient scaler or by the user.
    - Forward passes without a gradient coming back (evaluations, the recomputed ones of activation checkpoints) do not
      count; neither do those inside a transform of `torch.func`, whose tensors must not be kept.

    While it is attached, compiled code runs uncompiled, for compiled graphs have no place for those who come later.

    Args:
        cores: the cores to watch, by name.
        parameters: gives the parameters whose `.grad` is emptied between two steps.
    """

    def __init__(self, cores: Mapping[str, SigmoidCore], parameters: Callable[[], Iterable[Tensor]]) -> None:
        self._cores = cores
        self.keep_nodes = len(cores) <= FOLLOWED
        self._parameters = parameters
        self._passes: dict[str, list[Seen]] = {}
        self._first: str | None = None
        self._copied: set[str] = set()
        self._room: dict[str, int] = {}
        self._transformed = False
        self._watchers: dict[str, _Watcher] = {}
        self._release: weakref.finalize[[], Taps] | None = None

    @property
    def attached(self) -> bool:
        """Whether the cores are watched."""
        return bool(self._watchers)

    def attach(self) -> None:
        """Watch from the next forward pass on."""
        if not self.attached:
            for name, core in self._cores.items():
                self._watchers[name] = _Watcher(self, name)
                core.watch(self._watchers[name])
            eager.hold()
            self._release = weakref.finalize(self, eager.release)  # also when it is dropped, still attached
            self._release.atexit = False

    def detach(self) -> None:
        """Stop watching, and forget what was seen."""
        if self.attached:
            for name, watcher in self._watchers.items():
                self._cores[name].unwatch(watcher)
            if self._release is not None:
                self._release()
        self._watchers, self._first, self._transformed = {}, None, False
        self._forget()

    def copy(self, name: str) -> None:
        """Copy what a core makes from now on: the model changes it in place after the core has run."""
        self._copied.add(name)

    def counted(self) -> "dict[str, list[Seen]]":
        """The passes that a gradient of this step came back through, by core; a core without any is an empty list."""
        return {name: [p for p in self._passes.get(name, []) if p.counts] for name in self._cores}

    @property
    def differentiated(self) -> bool:
        """Whether the loss contains derivatives: see `Pass`; or a transform or forward mode has taken some."""
        return self._transformed or any(p.differentiated for seen in self._passes.values() for p in seen if p.counts)

    def see(self, name: str, core: SigmoidCore, x: Tensor, y: Tensor) -> None:
        """Take note of a forward pass through a core, from its input less its shift and its output."""
        if torch.compiler.is_compiling():
            return
        self._transformed |= torch.is_grad_enabled() and in_transform()
        if torch._C._are_functorch_transforms_active():
            return
        if not (x.requires_grad and y.requires_grad):
            return
        first = self._begin([name])
        seen = Pass(self, name, core, x, y, first)
        if name in self._copied:
            seen.copy()
        self._passes[name].append(seen)

    def joins(self, watchers: "Sequence[_Watcher]") -> bool:
        """Whether a stack of these cores can run as one: see `stack.Party`."""
        return self._copied.isdisjoint([watcher.name for watcher in watchers])

    def listener(self, watchers: "Sequence[_Watcher]", stack: Stack, x: Tensor) -> Listener:
        """Take note of a forward pass through cores that are computed as one: see `stack.Party`."""
        cores = {watcher.name: self._cores[watcher.name] for watcher in watchers}
        first = self._begin(list(cores))
        samples = x.shape[0] if first is None or self._first in cores else first.samples
        leaf = None if first is None else first.leaf
        seen = StackPass(stack, cores, x, leaf, samples, self.forget_what_was_emptied, self.keep_nodes)
        for name, layer in seen.layers.items():
            self._passes[name].append(layer)
        return seen.listener()

    def _begin(self, names: list[str]) -> "Seen | None":
        """Make ready for another pass of these cores; returns the latest of the core that ran first."""
        if self._first is None:
            self._first = names[0]
        if self._first in names and any(p.counts for p in self._passes.get(self._first, ())) and self._emptied():
            self._forget()
        for name in names:
            passes = self._passes.setdefault(name, [])
            if passes:
                self._make_room(name, passes)
        first = self._passes.get(self._first)
        return first[-1] if first else None

    def _make_room(self, name: str, passes: "list[Seen]") -> None:
        for earlier in passes:
            earlier.settle()
        if len(passes) >= self._room.get(name, ROOM):
            passes[:] = [p for p in passes if p.counts or p.waits]
            self._room[name] = max(ROOM, 2 * len(passes))

    def forget_what_was_emptied(self, arriving: "Mapping[str, Seen]") -> None:
        """Forget gradients of cores whose `.grad` has been emptied since, when the next ones arrive.

        That is where `zero_grad` stands between the forward and the backward pass.
        """
        number = backward_pass()
        earlier = [
            (self._passes[name], p)
            for name, one in arriving.items()
            for p in self._passes.get(name, ())
            if p is not one and p.counts and p.backward != number
        ]
        if earlier:
            leaf: Tensor = nearest_leaf(torch._C._current_autograd_node()).variable  # type: ignore[attr-defined]
            ours = any(leaf is p for p in self._parameters())  # not one that FSDP has made for this pass
            if ours and (leaf.grad is None or not bool(leaf.grad.any())):
                for passes, seen in earlier:
                    passes.remove(seen)
                    seen.let_go()

    def _emptied(self) -> bool:
        """Whether no parameter holds a gradient, as after `zero_grad` before a forward pass.

        (When a gradient arrives it is too late for this question: the layers behind have theirs by then.)
        """
        gradients = (p.grad for p in self._parameters() if p.grad is not None)
        return not any(bool((g.to_local() if hasattr(g, "to_local") else g).any()) for g in gradients)

    def _forget(self) -> None:
        for passes in self._passes.values():
            for seen in passes:
                seen.let_go()
        self._passes, self._room = {}, {}


class Pass:
    """One forward pass through one core.

    Nothing is computed before the step: one kind of operation for all cores in turn takes much less time than the same
    between the operations of the model.

    Args:
        taps: is told when a gradient arrives that counts.
        name: that of the core.
        core: the core.
        x: the preactivations less the shift.
        y: what the core made of them, before anything else is done with it.
        first: the latest pass of the core that ran first in this step, for what all passes have in common.

    Attributes:
        leaf: a node that most likely accumulates into `.grad` in the backward passes of this step.
        samples: number of samples of the batch: rows of the core that ran first.
        again: whether it ran inside a backward pass, as those of reentrant activation checkpoints do.
        backward: the number of the latest backward pass that a gradient came back in.
        differentiated: whether a gradient came back that is differentiated again: the loss contains derivatives.
        entry: the node that the core reads, if it is to be kept, once a gradient has come back: a graph that is never
            used is not kept.
    """

    __slots__ = (
        "_gradient",
        "_handle",
        "_name",
        "_settled",
        "_slopes",
        "_taps",
        "_version",
        "_x",
        "_y",
        "again",
        "backward",
        "core",
        "differentiated",
        "entry",
        "leaf",
        "samples",
    )

    def __init__(self, taps: Taps, name: str, core: SigmoidCore, x: Tensor, y: Tensor, first: "Seen | None") -> None:
        self._taps = taps
        self._name = name
        self.core = core
        self._x, self._y = bare(x), bare(y)
        self._version = y._version
        self._slopes: Tensor | None = None
        self._gradient: Tensor | None = None
        self._settled: tuple[Tensor, ...] = ()
        self.again = backward_pass() != NONE
        self.backward = NONE
        self.differentiated = False
        self.entry: Node | None = None
        if first is None:
            self.leaf: Node = nearest_leaf(get_gradient_edge(x).node)
            self.samples: int = x.shape[0]
        else:
            self.leaf = first.leaf
            self.samples = x.shape[0] if first.core is core else first.samples
        self._handle: RemovableHandle = x.register_hook(self)  # type: ignore[no-untyped-call]

    def copy(self) -> None:
        """Keep a copy of the output: the model changes it in place."""
        self._y = self._y.clone()
        self._version = self._y._version

    @property
    def counts(self) -> bool:
        """Whether a gradient has come back."""
        return self._gradient is not None or bool(self._settled)

    @property
    def waits(self) -> bool:
        """Whether a gradient can still come back: its graph is there."""
        return self._handle.hooks_dict_ref() is not None  # which lives as long as the graph

    @property
    def rows(self) -> int:
        """Number of samples, times positions, that a neuron has seen, or the layer if it has one slope."""
        return self._x.numel() // (self.core.num_features or 1)

    @property
    def slopes(self) -> Tensor | None:
        """Mean relative slopes, if it is settled: see `mean_relative_slopes`."""
        return self._slopes

    @property
    def changed(self) -> bool:
        """Whether the model has changed the output in place since: it is not what the core made."""
        return self._y._version != self._version

    @property
    def x(self) -> Tensor:
        """Preactivations in the dtype of the slope: [rows, neurons], or [rows, 1] if the layer has one slope."""
        shift = self.core.shift
        return in_rows(self.core, self._x).to(shift.dtype) + shift

    def settle(self) -> None:
        """Reduce the gradient and the output to numbers: the next micro-batch wants the memory.

        What comes back later through the same graph is then taken for a micro-batch of its own.
        """
        if self._gradient is not None:
            self._settled = (*self._settled, norm(self._gradient))
            self._gradient = None
        if self._settled and self._slopes is None and not self.changed:
            self._slopes = mean_relative_slopes([self])[0]
            self._y = self._y.new_empty(0)
            self._version = self._y._version

    def gradients(self) -> tuple[Tensor, ...]:
        """What has come back: gradients, of those that are settled their norms, 0-dim."""
        return self._settled if self._gradient is None else (*self._settled, self._gradient)

    def let_go(self) -> None:
        """Stop listening: the graph, which may be kept, keeps this pass no longer."""
        self._handle.remove()

    def __call__(self, gradient: Tensor) -> None:
        """A gradient arrives: this is the hook on it."""
        entry = None
        if not accumulates(self.leaf):
            entry = torch._C._current_autograd_node()
            if not accumulates(nearest_leaf(entry)):
                self.differentiated |= torch.is_grad_enabled()
                return
        self._taps.forget_what_was_emptied({self._name: self})
        self.backward = backward_pass()
        if self._taps.keep_nodes:
            self.entry = entry or torch._C._current_autograd_node()
        if gradient.requires_grad:
            gradient = gradient.detach()
        if self._gradient is not None:
            gradient = _summable(self._gradient) + _summable(gradient)
        self._gradient = gradient

    @property
    def exit(self) -> Node | None:
        """The node that is met first on the way back from what the core feeds."""
        return self.entry

    @property
    def before(self) -> str | None:
        """The core that feeds this one, where the graph does not tell."""
        return None

    def output(self) -> Tensor:
        """What the core made: [rows, neurons], or [rows, 1] if the layer has one slope."""
        return in_rows(self.core, self._y)


Seen = Pass | LayerPass
"""A pass of a core: by itself, or in a stack."""


def consumers(passes: Mapping[str, Sequence[Seen]]) -> dict[str, dict[str, bool]]:
    """Which cores each core feeds, without another core in between, and whether always through a normalisation.

    Args:
        passes: the passes of the cores that a gradient has come back through, by name.

    Returns:
        For every core the cores that it feeds; what it feeds is empty for one that the loss reads.
    """
    exits = {p.exit: name for name, of_core in passes.items() for p in of_core if p.exit is not None}
    found: dict[str, dict[str, bool]] = {name: {} for name in passes}
    for name, of_core in passes.items():
        for seen in of_core:
            sources = set() if seen.entry is None else met_first(seen.entry, exits)
            if seen.before is not None:
                sources.add((seen.before, False))
            for source, normalised in sources:
                found[source][name] = found[source].get(name, True) and normalised
    return found


def mean_relative_slopes(passes: Sequence[Seen]) -> list[Tensor]:
    """Mean relative slope of every neuron over the rows of each pass, [neurons] or [1].

    With y = sigmoid(z) it is 4 y (1 - y), and 1 - (2y)^2 of a centered y: to 1e-7 in float32, and to 0.02 a sample
    in bfloat16, whose roundings average out.

    Small layers of one kind are stacked: that takes half the time.
    """
    found: list[Any] = [seen.slopes for seen in passes]
    outputs = {i: seen.output() for i, seen in enumerate(passes) if isinstance(seen, Pass) and seen.slopes is None}
    kinds: dict[Any, list[int]] = {}
    for i, y in outputs.items():
        core = passes[i].core
        kinds.setdefault((core.centered, core.scale, y.shape, y.dtype, y.device), []).append(i)
    for (centered, scale, shape, _, _), alike in kinds.items():
        most = max(1, STACKED // max(1, shape.numel()))
        for first in range(0, len(alike), most):
            places = alike[first : first + most]
            y = _summable(torch.stack([outputs[i] for i in places]))
            if centered:
                slopes = 1 - y.square_().sum(1) * (4 / (scale**2 * shape[0]))
            else:
                slopes = y.addcmul_(y, y, value=-1 / scale).sum(1) * (4 / (scale * shape[0]))
            for i, of_pass in zip(places, slopes.unbind(), strict=True):
                found[i] = of_pass
    return found


def _summable(values: Tensor) -> Tensor:
    """In float32, if half precision would not hold their sum."""
    return values.float() if values.dtype in _HALF else values


class _Watcher:
    """Watches a core; see `SigmoidCore.watch`."""

    __slots__ = ("name", "party")

    def __init__(self, taps: Taps, name: str) -> None:
        self.party, self.name = taps, name

    def __call__(self, core: SigmoidCore, x: Tensor, y: Tensor) -> None:
        self.party.see(self.name, core, x, y)
