"""What a sampled step shows: the preactivations that reach the cores, and the gradients that come back to them."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from sigmoidcore import eager
from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import gradient_size
from sigmoidcore.stacks import together

AHEAD = 8
"""Forward passes that may wait for a backward pass; of more, which evaluations with gradients make, the oldest go."""
_HALF = (torch.float16, torch.bfloat16)


class Taps:
    """Watches cores while it is attached, and is not there at all while it is not.

    A pass counts if its gradient belongs to the step to come, whichever way the user trains:

    - The gradient of a core's preactivation counts if the same backward pass goes into the `.grad` of a parameter
      before the core: that is what `backward()` does. `torch.autograd.grad` does not: derivatives by the inputs
      (physics-informed losses, gradient penalties) are on the way to the loss, and are no gradients of it.
    - Several backward passes through one graph add up, as they do in `.grad`.
    - What was seen before `zero_grad` is forgotten at the next forward pass: its step was skipped, by a gradient scaler
      or by the user.
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
        self._handles: list[RemovableHandle] = []
        self._release: weakref.finalize[[], Taps] | None = None

    @property
    def attached(self) -> bool:
        """Whether the cores are watched."""
        return bool(self._handles)

    def attach(self) -> None:
        """Watch from the next forward pass on."""
        if not self.attached:
            self._handles = [
                core.register_forward_hook(_Tap(self, name), prepend=True) for name, core in self._cores.items()
            ]
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
        """Copy the preactivations of a core from now on: the model changes them in place after the core has run."""
        self._copied.add(name)

    def counted(self) -> "dict[str, list[Pass]]":
        """The passes that a gradient of this step came back through, by core; a core without any is an empty list."""
        return {name: [p for p in self._passes.get(name, []) if p.counts] for name in self._cores}

    def see(self, name: str, core: SigmoidCore, x: Tensor, y: Tensor) -> None:
        """Take note of a forward pass through a core, from its input and output."""
        if torch._C._are_functorch_transforms_active():
            return
        if self._first is None:
            self._first = name
        if name == self._first and any(p.counts for p in self._passes.get(name, [])) and self._emptied():
            self._forget()
        if y.requires_grad and x.requires_grad:
            passes = self._passes.setdefault(name, [])
            for earlier in passes:
                earlier.settle()
            waiting = [p for p in passes if not p.counts]
            if len(waiting) >= AHEAD:
                passes.remove(waiting[0])
                waiting[0].let_go()
            passes.append(Pass(core, x, y, copy=name in self._copied))

    def _emptied(self) -> bool:
        """Whether no parameter holds a gradient, as after `zero_grad`."""
        gradients = (p.grad for p in self._parameters() if p.grad is not None)
        return not any(bool((g.to_local() if hasattr(g, "to_local") else g).any()) for g in gradients)

    def _forget(self) -> None:
        for passes in self._passes.values():
            for seen in passes:
                seen.let_go()
        self._passes = {}


class Pass:
    """One forward pass through one core.

    Args:
        core: the core.
        x: the preactivations.
        y: what the core made of them, before anything else is done with it.
        copy: keep a copy of the preactivations.
    """

    __slots__ = ("_gradient", "_handle", "_index", "_leaf", "_sizes", "_version", "_x", "core")

    def __init__(self, core: SigmoidCore, x: Tensor, y: Tensor, *, copy: bool) -> None:
        self.core = core
        self._x = x.detach().clone() if copy else x.detach()
        self._version = self._x._version
        self._gradient: Tensor | None = None
        self._sizes: list[Tensor] = []
        before = get_gradient_edge(x)
        entry, self._index = _entry(y.grad_fn, before)
        self._leaf = _nearest_leaf(before.node)
        self._handle = entry.register_hook(self._arrive)

    @property
    def counts(self) -> bool:
        """Whether a gradient has come back."""
        return self._gradient is not None or bool(self._sizes)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self._x)

    @property
    def changed(self) -> bool:
        """Whether the model has changed the preactivations in place since: they are no longer what the core saw."""
        return self._x._version != self._version

    @property
    def x(self) -> Tensor:
        """Preactivations in the dtype of the slope: [rows, neurons], or [rows, 1] if the layer has one slope."""
        x, core = self._x, self.core
        if core.num_features is None:
            x = x.reshape(-1, 1)
        elif x.dim() != 2 or core.dim % 2 != 1:
            x = x.movedim(core.dim, -1).flatten(0, -2)
        return x if x.dtype == core.shift.dtype else x.to(core.shift.dtype)

    def settle(self) -> None:
        """Reduce the gradient to its size: the next micro-batch wants the memory.

        What comes back later through the same graph is then taken for a micro-batch of its own.
        """
        if self._gradient is not None:
            self._sizes.append(gradient_size(self._gradient))
            self._gradient = None

    def let_go(self) -> None:
        """Stop listening, for the graph may be kept."""
        self._handle.remove()

    def _arrive(self, gradients: tuple[Tensor | None, ...], _: Any) -> None:
        gradient = gradients[self._index]
        if gradient is not None and _accumulates(self._leaf):
            gradient = gradient.detach()
            gradient = gradient.float() if gradient.dtype in _HALF else gradient
            self._gradient = gradient if self._gradient is None else self._gradient + gradient


def sizes(passes: Iterable[Sequence[Pass]]) -> Tensor:
    """Gradient size of every core, those of several passes joined: [cores], float64, on the CPU."""
    passes = list(passes)
    fresh = [(p, p._gradient) for of_core in passes for p in of_core if p._gradient is not None]
    found = together(partial(gradient_size, batch_dim=1), [gradient for _, gradient in fresh])
    for (seen, _), size in zip(fresh, found, strict=True):
        seen._sizes.append(size)
        seen._gradient = None
    every = [[size for p in of_core for size in p._sizes] for of_core in passes]
    home = every[0][0].device
    flat = torch.stack([size.to(home) for of_core in every for size in of_core]).to("cpu", torch.float64)
    if len(flat) == len(every):
        return flat
    return torch.stack([torch.linalg.vector_norm(part) for part in torch.split(flat, [len(e) for e in every])])


class _Tap:
    """A forward hook that stays behind when its core is copied or pickled: see `SigmoidCore.__getstate__`."""

    stays_behind = True

    def __init__(self, taps: Taps, name: str) -> None:
        self._taps = taps
        self._name = name

    def __call__(self, core: SigmoidCore, args: tuple[Tensor, ...], y: Tensor) -> None:
        if not torch.compiler.is_compiling():
            self._taps.see(self._name, core, args[0], y)


def _entry(node: Node | None, before: GradientEdge) -> tuple[Node, int]:
    """The node of a core's graph that hands a gradient on to what was before the core, and at which place."""
    front = [] if node is None else [node]
    while front:
        for node in front:
            for i, following in enumerate(node.next_functions):
                if following[0] is before.node and following[1] == before.output_nr:
                    return node, i
        front = [n for node in front for n, _ in node.next_functions if n is not None]
    raise RuntimeError("a core's output requires a gradient, but does not depend on its input: report this")


def _accumulates(leaf: Node) -> bool:
    """Whether the backward pass that is running puts a gradient into this leaf's `.grad`."""
    try:
        return torch._C._will_engine_execute_node(leaf)
    except RuntimeError:  # `torch.autograd.grad` by that very leaf
        return False


def _nearest_leaf(node: Node) -> Node:
    """The nearest node before this one, itself included, that accumulates into the `.grad` of a leaf."""
    front, seen = [node], {node}
    while front:
        for node in front:
            if hasattr(node, "variable"):
                return node
        front = [before for node in front for before, _ in node.next_functions if before is not None]
        front = [n for n in dict.fromkeys(front) if n not in seen]
        seen.update(front)
    raise RuntimeError("a preactivation requires a gradient, but depends on no leaf: report this")
