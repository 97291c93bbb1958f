"""What a sampled step shows: the preactivations that reach the cores, and the gradients that come back to them."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from sigmoidcore import eager
from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import gradient_size

AHEAD = 8
"""Forward passes that may wait for a backward pass; of more, which evaluations with gradients make, the oldest go."""
_HALF = (torch.float16, torch.bfloat16)


class Taps:
    """Watches cores while it is attached, and is not there at all while it is not.

    A pass counts if its gradient belongs to the step to come, whichever way the user trains:

    - The gradient of a core's preactivation counts once the same backward pass has arrived at a parameter before the
      core: that is what `backward()` does. `torch.autograd.grad` does not: derivatives by the inputs (physics-informed
      losses, gradient penalties) are on the way to the loss, and are no gradients of it.
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
        self._handles: list[RemovableHandle] = []
        self._release: weakref.finalize[[], Taps] | None = None

    @property
    def attached(self) -> bool:
        """Whether the cores are watched."""
        return bool(self._handles)

    def attach(self) -> None:
        """Watch from the next forward pass on."""
        if not self.attached:
            self._handles = [core.register_forward_pre_hook(_Tap(self, name)) for name, core in self._cores.items()]
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

    def counted(self) -> "dict[str, list[Pass]]":
        """The passes that a gradient of this step came back through, by core; a core without any is an empty list."""
        return {name: [p for p in self._passes.get(name, []) if p.counts] for name in self._cores}

    def see(self, name: str, x: Tensor) -> None:
        """Take note of a forward pass through a core."""
        if torch._C._are_functorch_transforms_active():
            return
        if self._first is None:
            self._first = name
        if name == self._first and any(p.counts for p in self._passes.get(name, [])) and self._emptied():
            self._forget()
        if torch.is_grad_enabled() and x.requires_grad:
            passes = self._passes.setdefault(name, [])
            for earlier in passes:
                earlier.settle()
            waiting = [p for p in passes if not p.counts]
            if len(waiting) >= AHEAD:
                passes.remove(waiting[0])
                waiting[0].let_go()
            passes.append(Pass(x))

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

    Attributes:
        x: the preactivations, without their graph.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x.detach()
        self._arrived: Tensor | None = None
        self._gradient: Tensor | None = None
        self._sizes: list[Tensor] = []
        leaf = _nearest_leaf(get_gradient_edge(x).node)
        self._handles = [x.register_hook(self._arrive), leaf.register_hook(self._count)]  # type: ignore[no-untyped-call]

    @property
    def counts(self) -> bool:
        """Whether a gradient has come back."""
        return self._gradient is not None or bool(self._sizes)

    def settle(self) -> None:
        """Reduce the gradient to its size: the next micro-batch wants the memory.

        What comes back later through the same graph is then taken for a micro-batch of its own.
        """
        if self._gradient is not None:
            self._sizes.append(gradient_size(self._gradient))
            self._gradient = None

    def sizes(self) -> list[Tensor]:
        """The sizes of the gradients that have come back, 0-dim tensors: one, or one each time it was settled."""
        self.settle()
        return self._sizes

    def let_go(self) -> None:
        """Stop listening: what keeps a parameter's node, as `DistributedDataParallel` does, would keep this."""
        for handle in self._handles:
            handle.remove()

    def _arrive(self, gradient: Tensor) -> None:
        gradient = gradient.detach()
        self._arrived = gradient.to(torch.float32) if gradient.dtype in _HALF else gradient

    def _count(self, *_: Any) -> None:
        if self._arrived is not None:
            self._gradient = self._arrived if self._gradient is None else self._gradient + self._arrived
            self._arrived = None


class _Tap:
    """A forward pre-hook that stays behind when its core is copied or pickled: see `SigmoidCore.__getstate__`.

    It hands the core a copy of its own: where the preactivations go on past the core (a skip connection), the gradient
    that comes back there is none of the core's, and they may be changed in place there.
    """

    stays_behind = True

    def __init__(self, taps: Taps, name: str) -> None:
        self._taps = taps
        self._name = name

    def __call__(self, core: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        x = args[0]
        if torch.compiler.is_compiling():
            return None
        if torch.is_grad_enabled() and x.requires_grad:
            x = x.clone()
        self._taps.see(self._name, x)
        return (x, *args[1:])


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
