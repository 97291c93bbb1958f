"""What a sampled step shows: the preactivations that reach the cores, and the gradients that come back to them."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from sigmoidcore.core import HALF, SigmoidCore
from sigmoidcore.observation.layer_observer import LayerObserver
from unstuck.observation import (
    NONE,
    accumulates,
    backward_pass,
    bare,
    in_transform,
    nearest_leaf,
    running_node,
    transforms_active,
    version,
)
from unstuck.observation.batch import floating_tensors
from unstuck.observation.sizes import norms, row_norms

FOLLOWED = 1000  # models with more cores are taken for chains: nodes that Python has touched are freed recursively
OUTPUT = " output"  # what the cores feed that no other core follows


class GradientObserver(LayerObserver):
    """Records the passes through cores whose gradients belong to the next step.

    - The gradient of a core's preactivation counts if the same backward pass goes into the `.grad` of a parameter
      before the core, as that of `backward()` does. `torch.autograd.grad` does not: derivatives by the inputs
      (physics-informed losses, gradient penalties) are part of the loss, not gradients of it.
    - Several backward passes through one graph add up, as they do in `.grad`.
    - Passes before `zero_grad` are forgotten: a gradient scaler or the user skipped their step.
    - Forward passes without a backward pass (evaluations, recomputed activation checkpoints) do not count, nor do
      passes inside a transform of `torch.func`.
    """

    def __init__(
        self,
        cores: Mapping[str, SigmoidCore],
        parameters: Callable[[], Iterable[Tensor]],  # whose `.grad` is emptied between two steps
        model: nn.Module | None = None,  # to see which cores its outputs come from
    ) -> None:
        super().__init__(cores)
        if model is not None:
            self._names.setdefault(id(model), OUTPUT)
        self.ends: list[Node] = []  # nodes of the outputs that a gradient of this step came back to
        self.keeps_nodes = len(cores) <= FOLLOWED
        self._parameters = parameters
        self._passes: dict[str, list[CorePass]] = {}
        self._first: str | None = None
        self.copied: set[str] = set()  # cores whose inputs and outputs the model changes in place afterwards
        self._transformed = False

    def detach(self) -> None:
        """Stop watching, and forget all passes."""
        super().detach()
        self._first, self._transformed = None, False
        self._forget()

    def counted(self) -> "dict[str, list[CorePass]]":
        """The passes that a gradient of this step came back through, by core; an empty list for a core without any."""
        return {name: [p for p in self._passes.get(name, []) if p.counts] for name in self.layers}

    @property
    def differentiated(self) -> bool:
        """Whether the loss contains derivatives, by a graph of the backward pass, a transform or forward mode."""
        passes = [p for of_core in self._passes.values() for p in of_core if p.counts]
        return self._transformed or any(p.differentiated for p in passes)

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """See `LayerObserver`; notes the nodes of the outputs of the model when a gradient comes back."""
        if name != OUTPUT:
            return super().leaves(name, layer, args, kwargs, output)
        if self.keeps_nodes and not transforms_active():
            for tensor in floating_tensors(output):
                if tensor.grad_fn is not None:
                    tensor.register_hook(partial(_note_end, weakref.ref(self)))  # type: ignore[no-untyped-call]
        return None

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Another name for the same tensor, to which nothing comes back but through this core."""
        watched = name != OUTPUT and type(x) is Tensor and x.requires_grad and not transforms_active()
        return x.view_as(x) if watched else x

    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Record a forward pass."""
        assert isinstance(layer, SigmoidCore)
        self._transformed |= torch.is_grad_enabled() and in_transform()
        x = args[0]
        if x.requires_grad and output.requires_grad and not transforms_active():
            first = self._begin(name)
            self._passes[name].append(CorePass(self, name, layer, x, output, first))
        return output

    def _begin(self, name: str) -> "CorePass | None":
        """Prepare for another pass of a core; returns the latest pass of the core that ran first."""
        if self._first is None:
            self._first = name
        if self._first == name and any(p.counts for p in self._passes.get(name, ())) and self._emptied():
            self._forget()
        passes = self._passes.setdefault(name, [])
        passes[:] = [p for p in passes if p.counts or p.waits]  # without those whose graph is gone
        for earlier in passes:
            earlier.settle()
        first = self._passes.get(self._first)
        return first[-1] if first else None

    def forget_emptied(self, name: str, arriving: "CorePass") -> None:
        """Forget earlier gradients if `zero_grad` was called between the forward and the backward pass."""
        passes, number = self._passes.get(name, []), backward_pass()
        earlier = [p for p in passes if p is not arriving and p.counts and p.backward != number]
        if earlier:
            leaf: Tensor = nearest_leaf(running_node()).variable  # type: ignore[attr-defined]
            ours = any(leaf is p for p in self._parameters())  # not one that FSDP has made for this pass
            if ours and (leaf.grad is None or not bool(leaf.grad.any())):
                for one in earlier:
                    passes.remove(one)
                    one.let_go()

    def _emptied(self) -> bool:
        """Whether no parameter holds a gradient, as after `zero_grad` before a forward pass."""
        gradients = (p.grad for p in self._parameters() if p.grad is not None)
        return not any(bool((g.to_local() if hasattr(g, "to_local") else g).any()) for g in gradients)

    def _forget(self) -> None:
        for passes in self._passes.values():
            for one in passes:
                one.let_go()
        self._passes, self.ends = {}, []


def _note_end(observer: "weakref.ref[GradientObserver]", gradient: Tensor) -> None:
    found = observer()
    first = found._passes.get(found._first or "") if found is not None and found.attached else None
    if found is not None and first and accumulates(first[-1].leaf):  # nodes keep the graph: not a measurement's
        found.ends.append(running_node())


class CorePass:
    """One forward pass through one core; the computations wait for the step, when all cores are processed in turn."""

    def __init__(
        self, observer: GradientObserver, name: str, core: SigmoidCore, x: Tensor, y: Tensor, first: "CorePass | None"
    ) -> None:
        self._observer = weakref.ref(observer)
        self._name = name
        self.core = core
        self._x, self._y = bare(x), bare(y)
        if name in observer.copied:
            self._x, self._y = self._x.clone(), self._y.clone()
        self._versions = version(self._x), version(self._y)
        self._slopes: Tensor | None = None  # once it is settled
        self._gradient: Tensor | None = None
        self._settled: tuple[Tensor, ...] = ()
        self.again = backward_pass() != NONE  # as in reentrant activation checkpoints
        self.backward = NONE  # number of the latest backward pass that brought a gradient
        self.differentiated = False  # whether a gradient is differentiated again: the loss contains derivatives
        self.entry: Node | None = None  # what the core reads, once a gradient has come back: unused graphs are not kept
        # A node that most likely accumulates into `.grad` in the backward passes of this step.
        self.leaf: Node = nearest_leaf(get_gradient_edge(x).node) if first is None else first.leaf
        # Rows of the core that ran first.
        self.samples: int = x.shape[0] if first is None or first.core is core else first.samples
        self._handle: RemovableHandle = x.register_hook(self)  # type: ignore[no-untyped-call]

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
        """Number of samples, times positions, that a neuron reads; or the layer, if it has one slope."""
        return self._x.numel() // (self.core.num_features or 1)

    @property
    def changed(self) -> bool:
        """Whether the model has changed the preactivations or the output in place."""
        return (version(self._x), version(self._y)) != self._versions

    @property
    def x(self) -> Tensor:
        """Preactivations in the dtype of the slope: [rows, neurons], or [rows, 1] if the layer has one slope."""
        return self.core.in_rows(self._x).to(self.core.shift.dtype)

    def relative_slopes(self) -> Tensor:
        """Mean relative slope of every neuron over the rows, [neurons] or [1]: 4 y (1 - y), or 1 - (2y)^2 if centered.

        The error is 1e-7 in float32, 0.02 a sample in bfloat16, whose roundings average out.
        """
        if self._slopes is not None:
            return self._slopes
        y, scale = _summable(self.core.in_rows(self._y)), self.core.scale
        if self.core.centered:
            return 1 - y.square().mean(0) * (4 / scale**2)
        return torch.addcmul(y, y, y, value=-1 / scale).mean(0) * (4 / scale)

    def settle(self) -> None:
        """Reduce the gradient and the output to numbers; later gradients belong to another micro-batch."""
        if self._gradient is not None:
            self._settled = (*self._settled, row_norms(self._gradient))
            self._gradient = None
        if self._settled and self._slopes is None and not self.changed:
            self._slopes = self.relative_slopes()
            self._y = self._y.new_empty(0)
            self._versions = self._versions[0], version(self._y)

    def gradients(self) -> tuple[Tensor, ...]:
        """The gradients, samples first, and the norms of the samples of settled ones, [samples]."""
        return self._settled if self._gradient is None else (*self._settled, self._gradient)

    def let_go(self) -> None:
        """Stop listening, so that the graph does not keep this pass alive."""
        self._handle.remove()

    def __call__(self, gradient: Tensor) -> None:
        """The hook on the preactivations: a gradient arrives."""
        observer = self._observer()
        if observer is None:
            return
        entry = None  # Python must not touch the nodes of a very deep graph
        if not accumulates(self.leaf):
            entry = running_node()
            if not accumulates(nearest_leaf(entry)):
                self.differentiated |= torch.is_grad_enabled()
                return
        observer.forget_emptied(self._name, self)
        self.backward = backward_pass()
        if observer.keeps_nodes:
            self.entry = entry or running_node()
        if gradient.requires_grad:
            gradient = gradient.detach()
        if self._gradient is not None:
            gradient = _summable(self._gradient) + _summable(gradient)
        self._gradient = gradient


def gradient_sizes(passes: Iterable[Sequence[CorePass]]) -> Tensor:
    """Gradient sizes of the cores, [cores], float64, on the CPU: those of several passes are joined."""
    flat = norms([gradient for of_core in passes for one in of_core for gradient in one.gradients()])
    samples = [one.samples for of_core in passes for one in of_core for _ in one.gradients()]
    flat /= torch.tensor(samples, dtype=torch.float64).sqrt()
    counts = [sum([len(one.gradients()) for one in of_core]) for of_core in passes]
    if len(flat) == len(counts):
        return flat
    return torch.stack([torch.linalg.vector_norm(part) for part in torch.split(flat, counts)])


def gradient_moments(passes: Iterable[Sequence[CorePass]], sizes: Tensor, home: torch.device) -> Tensor:
    """Sums over the samples of squares and fourth powers of their gradients, over the sizes: [2, cores], on the CPU.

    The square of the first over the second is the number of samples that make the gradient: all if they are alike, one
    if a single sample has nearly all of it.
    """
    found = []
    for of_core, size in zip(passes, sizes.tolist(), strict=True):
        gradients = [gradient for one in of_core for gradient in one.gradients()]
        squares = torch.cat([row_norms(gradient) for gradient in gradients]).div_(size).square_()
        found.append(torch.stack([squares.sum(), squares.square().sum()]).to(home))
    return torch.stack(found, 1).to("cpu", torch.float64)  # one look at the device, not one for every core


def relative_slopes(passes: Iterable[Sequence[CorePass]], home: torch.device) -> list[Tensor]:
    """Mean relative slope of every neuron of each core over all its passes, [neurons] or [1], on one device."""
    found = []
    for of_core in passes:
        if len(of_core) == 1:
            found.append(of_core[0].relative_slopes().to(home))
            continue
        rows = sum(one.rows for one in of_core)
        found.append(torch.stack([one.relative_slopes().to(home) * (one.rows / rows) for one in of_core]).sum(0))
    return found


def _summable(values: Tensor) -> Tensor:
    """In float32 if half precision would not hold their sum."""
    return values.float() if values.dtype in HALF else values
