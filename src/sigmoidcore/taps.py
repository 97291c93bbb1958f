"""What a sampled step shows: the preactivations that reach the cores, and the gradients that come back to them."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from sigmoidcore import eager
from sigmoidcore.autograd import NONE, accumulates, backward_pass, met_first, nearest_leaf
from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import norm
from sigmoidcore.neurons import in_rows
from sigmoidcore.profile import given

ROOM = 8
"""From so many passes of a core that wait for a gradient on, those are dropped whose graph is gone."""
FOLLOWED = 1000
"""Models of more cores are taken for chains: see `_ViewTap` on touching every node of a deep graph."""
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

    While it is attached, compiled code runs uncompiled, for `torch.compile` takes no notice of hooks that come later.

    Args:
        cores: the cores to watch, by name.
        parameters: gives the parameters whose `.grad` is emptied between two steps.
    """

    def __init__(self, cores: Mapping[str, SigmoidCore], parameters: Callable[[], Iterable[Tensor]]) -> None:
        self._cores = cores
        self._parameters = parameters
        self._passes: dict[str, list[Pass]] = {}
        self._first: str | None = None
        self._copied: set[str] = set()
        self._room: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []
        self._release: weakref.finalize[[], Taps] | None = None

    @property
    def attached(self) -> bool:
        """Whether the cores are watched."""
        return bool(self._handles)

    def attach(self) -> None:
        """Watch from the next forward pass on."""
        if not self.attached:
            for name, core in self._cores.items():
                self._handles.append(core.register_forward_pre_hook(_ViewTap(), with_kwargs=True))
                self._handles.append(core.register_forward_hook(_Tap(self, name), prepend=True, with_kwargs=True))
            eager.hold()
            self._release = weakref.finalize(self, eager.release)  # also when it is dropped, still attached
            self._release.atexit = False

    def detach(self) -> None:
        """Stop watching, and forget what was seen."""
        if self.attached:
            for handle in self._handles:
                handle.remove()
            if self._release is not None:
                self._release()
        self._handles, self._first = [], None
        self._forget()

    def copy(self, name: str) -> None:
        """Copy what a core takes and makes from now on: the model changes it in place after the core has run."""
        self._copied.add(name)

    def counted(self) -> "dict[str, list[Pass]]":
        """The passes that a gradient of this step came back through, by core; a core without any is an empty list."""
        return {name: [p for p in self._passes.get(name, []) if p.counts] for name in self._cores}

    def see(self, name: str, core: SigmoidCore, x: Tensor, y: Tensor) -> None:
        """Take note of a forward pass through a core, from its input and output."""
        if torch._C._are_functorch_transforms_active() or not (y.requires_grad and x.requires_grad):
            return
        if self._first is None:
            self._first = name
        passes = self._passes.get(name)
        if passes and name == self._first and any(p.counts for p in passes) and self._emptied():
            self._forget()
            passes = None
        if passes is None:
            passes = self._passes[name] = []
        else:
            self._make_room(name, passes)
        first = self._passes.get(self._first)
        arrived = partial(self._forget_what_was_emptied, name)
        passes.append(
            Pass(
                core,
                x,
                y,
                arrived,
                copy=name in self._copied,
                keep_node=len(self._cores) <= FOLLOWED,
                first=first[-1] if first else None,
            )
        )

    def _make_room(self, name: str, passes: "list[Pass]") -> None:
        for earlier in passes:
            earlier.settle()
        if len(passes) >= self._room.get(name, ROOM):
            passes[:] = [p for p in passes if p.counts or p.waits]
            self._room[name] = max(ROOM, 2 * len(passes))

    def _forget_what_was_emptied(self, name: str, arriving: "Pass") -> None:
        """Forget gradients of a core whose `.grad` has been emptied since, when the next one arrives.

        That is where `zero_grad` stands between the forward and the backward pass.
        """
        passes = self._passes.get(name, [])
        earlier = [p for p in passes if p.counts and p is not arriving and p.backward != backward_pass()]
        if earlier:
            leaf: Tensor = nearest_leaf(torch._C._current_autograd_node()).variable  # type: ignore[attr-defined]
            ours = any(leaf is p for p in self._parameters())  # not one that FSDP has made for this pass
            if ours and (leaf.grad is None or not bool(leaf.grad.any())):
                for seen in earlier:
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
        core: the core.
        x: the preactivations.
        y: what the core made of them, before anything else is done with it.
        arrived: called with this pass when a gradient arrives that counts.
        copy: keep copies of both.
        keep_node: keep the node that the core reads, for `consumers`.
        first: the latest pass of the core that ran first in this step, for what all passes have in common.

    Attributes:
        leaf: a node that most likely accumulates into `.grad` in the backward passes of this step.
        samples: number of samples of the batch: rows of the core that ran first.
        again: whether it ran inside a backward pass, as those of reentrant activation checkpoints do.
        backward: the number of the latest backward pass that a gradient came back in.
        entry: the node that the core reads, if it is to be kept, once a gradient has come back: a graph that is never
            used is not kept.
    """

    __slots__ = (
        "_arrived",
        "_gradient",
        "_handle",
        "_hook",
        "_keep_node",
        "_moment",
        "_norms",
        "_versions",
        "_x",
        "_y",
        "again",
        "backward",
        "core",
        "entry",
        "leaf",
        "samples",
    )

    def __init__(
        self,
        core: SigmoidCore,
        x: Tensor,
        y: Tensor,
        arrived: "Callable[[Pass], None]",
        *,
        copy: bool,
        keep_node: bool,
        first: "Pass | None",
    ) -> None:
        self.core = core
        self._arrived = arrived
        x_, y_ = x.detach(), y.detach()
        self._x, self._y = (x_.clone(), y_.clone()) if copy else (x_, y_)
        self._versions = self._x._version, self._y._version
        self._moment: Tensor | None = None
        self._gradient: Tensor | None = None
        self._norms: list[Tensor] = []
        self.again = backward_pass() != NONE
        self.backward = NONE
        self.entry: Node | None = None
        self._keep_node = keep_node
        self.leaf: Node = nearest_leaf(get_gradient_edge(x).node) if first is None else first.leaf
        self.samples: int = x.shape[0] if first is None or first.core is core else first.samples
        hook = partial(self._arrive)  # an object of its own, which lives as long as the graph: see `waits`
        self._hook = weakref.ref(hook)
        self._handle = x.register_hook(hook)  # type: ignore[no-untyped-call]

    @property
    def counts(self) -> bool:
        """Whether a gradient has come back."""
        return self._gradient is not None or bool(self._norms)

    @property
    def waits(self) -> bool:
        """Whether a gradient can still come back: its graph is there."""
        return self._hook() is not None

    @property
    def rows(self) -> int:
        """Number of samples, times positions, that a neuron has seen, or the layer if it has one slope."""
        return self._x.numel() // (self.core.num_features or 1)

    @property
    def changed(self) -> bool:
        """Whether the model has changed input or output in place since: they are not what the core saw and made."""
        return (self._x._version, self._y._version) != self._versions

    @property
    def x(self) -> Tensor:
        """Preactivations in the dtype of the slope: [rows, neurons], or [rows, 1] if the layer has one slope."""
        return in_rows(self.core, self._x).to(self.core.shift.dtype)

    def mean_relative_slope(self) -> tuple[Tensor, float, float]:
        """Mean relative slope of every neuron, [neurons] or [1], as a tensor, its factor, and what is added then.

        With y = sigmoid(z) it is 4 y (1 - y), and 1 - (2y)^2 of a centered y: to 1e-7 in float32, and to 0.02 a sample
        in bfloat16, whose roundings average out. (The factors of all cores are multiplied at once.)
        """
        moment = self._summed() if self._moment is None else self._moment
        if self.core.centered:
            return moment, -4 / (self.core.scale**2 * self.rows), 1.0
        return moment, 4 / (self.core.scale * self.rows), 0.0

    def settle(self) -> None:
        """Reduce the gradient and the output to numbers: the next micro-batch wants the memory.

        What comes back later through the same graph is then taken for a micro-batch of its own.
        """
        if self.norms() and self._moment is None and not self.changed:
            self._moment = self._summed()
            self._y = self._y.new_empty(0)
            self._versions = self._versions[0], self._y._version

    def norms(self) -> list[Tensor]:
        """L2 norms of the gradients that have come back, 0-dim tensors: one, or one each time it was settled."""
        if self._gradient is not None:
            self._norms.append(norm(self._gradient))
            self._gradient = None
        return self._norms

    def let_go(self) -> None:
        """Stop listening: the graph, which may be kept, keeps this pass no longer."""
        self._handle.remove()

    def _arrive(self, gradient: Tensor) -> None:
        entry = None
        if not accumulates(self.leaf):
            entry = torch._C._current_autograd_node()
            if not accumulates(nearest_leaf(entry)):
                return
        self._arrived(self)
        self.backward = backward_pass()
        if self._keep_node:
            self.entry = entry or torch._C._current_autograd_node()
        gradient = gradient.detach()
        if self._gradient is not None:
            gradient = _summable(self._gradient) + _summable(gradient)
        self._gradient = gradient

    def _summed(self) -> Tensor:
        """Sum over the rows of y^2 if the core is centered, else of y - y^2, with y / scale for y."""
        y = _summable(in_rows(self.core, self._y))
        if self.core.centered:
            return y.square().sum(0)
        return torch.addcmul(y, y, y, value=-1 / self.core.scale).sum(0)


def consumers(passes: Mapping[str, Sequence[Pass]]) -> dict[str, dict[str, bool]]:
    """Which cores each core feeds, without another core in between, and whether always through a normalisation.

    Args:
        passes: the passes of the cores that a gradient has come back through, by name.

    Returns:
        For every core the cores that it feeds; what it feeds is empty for one that the loss reads.
    """
    cores = {p.entry: name for name, of_core in passes.items() for p in of_core if p.entry is not None}
    found: dict[str, dict[str, bool]] = {name: {} for name in passes}
    for entry, name in cores.items():
        for source, normalised in met_first(entry, cores):
            found[source][name] = found[source].get(name, True) and normalised
    return found


def _summable(values: Tensor) -> Tensor:
    """In float32, if half precision would not hold their sum."""
    return values.float() if values.dtype in _HALF else values


class _ViewTap:
    """A forward pre-hook that hands a core a view of its own, for a hook on what comes back through the core alone.

    What goes on past it (a skip connection) is no gradient of the core's. The hook is one on a tensor: nodes of a graph
    that Python has touched are freed recursively, and 10,000 layers of them would overflow the stack.
    """

    stays_behind = True

    def __call__(self, core: SigmoidCore, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
        x = given(args, kwargs)
        transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if transformed or not (torch.is_grad_enabled() and x.requires_grad):
            return None
        return (x.view_as(x),), {}


class _Tap:
    """A forward hook that stays behind when its core is copied or pickled: see `SigmoidCore.__getstate__`."""

    stays_behind = True

    def __init__(self, taps: Taps, name: str) -> None:
        self._taps = taps
        self._name = name

    def __call__(self, core: SigmoidCore, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], y: Tensor) -> None:
        if not torch.compiler.is_compiling():
            self._taps.see(self._name, core, given(args, kwargs), y)
