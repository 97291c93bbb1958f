"""Residual branches, x + branch(x): found on one batch, whatever the forward looks like."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from sigmoidcore._torch.autograd import normalises
from sigmoidcore.calibration.attention import last_part, output_in
from sigmoidcore.gain import gradient_size
from unstuck.observation import (
    Inputs,
    LayerObserver,
    LossFn,
    Profile,
    loss_of,
    original,
    own_copy,
    root_mean_square,
    run,
    undisturbed,
)

_SUMS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})


@dataclass(frozen=True)
class Branch:
    """One residual branch, and its sum with the stream.

    Attributes:
        layers: names of its layers with a matrix or a kernel.
        ends: those of them whose outputs reach the sum through no other one, and no normalisation.
        size: root mean square of what is added.
        stream: root mean square of what it is added to.
        factor: what the output of its last layer is multiplied by before it is added; nan with several last layers.
    """

    layers: tuple[str, ...]
    ends: tuple[str, ...]
    size: float
    stream: float
    factor: float


@dataclass(frozen=True)
class Residuals:
    """The branches of a model in the order in which they ran, and the gradient profile behind their sums."""

    branches: tuple[Branch, ...]
    profile: Profile


def find_branches(model: nn.Module, inputs: Inputs, targets: Any = None, loss_fn: LossFn | None = None) -> Residuals:
    """The residual branches of one forward pass: sums of a tensor and of another one that is computed from it.

    Nothing is changed, as by `gradient_profile`. A sum is seen if Python adds the tensors; one inside an operator of
    C++ is not. A sum of two branches counts once it is added to the stream.
    """
    layers = _LayerOutputs(weighted_layers(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("every parameter has requires_grad=False: unfreeze those that should train")
    if torch.is_inference_mode_enabled():
        raise ValueError("branches are found in the autograd graph: leave torch.inference_mode()")
    with undisturbed(model, inputs), torch.enable_grad():
        with layers, _Sums() as sums:
            outputs = run(model, _followed(inputs))
        streams: dict[Node, Node] = {}
        found = [(s, branch) for s in sums.seen if (branch := _branch(s, layers, streams)) is not None]
        loss = loss_of(outputs, targets, loss_fn)
        if found and loss.requires_grad:
            for s, _ in found:
                s.watch()
            torch.autograd.grad(loss, trained, allow_unused=True)
    sizes = torch.tensor([s.gradient for s, _ in found], dtype=torch.float64)
    branches = tuple(branch for _, branch in found)
    return Residuals(branches, Profile(tuple(" + ".join(b.ends or b.layers[-1:]) for b in branches), sizes))


def _followed(inputs: Any) -> Any:
    """The inputs with a node of the autograd graph each: a stream may start with them."""
    if isinstance(inputs, Tensor):
        return own_copy(inputs.detach().requires_grad_()) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {key: _followed(value) for key, value in inputs.items()}
    return type(inputs)(map(_followed, inputs)) if type(inputs) in (tuple, list) else inputs


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that have a matrix or a kernel, by name, without embeddings; attention counts as one module."""
    parts = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    return {
        name: module
        for name, module in model.named_modules()
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) and weight_of(module) is not None
        if module not in parts
    }


def weight_of(module: nn.Module) -> nn.Parameter | None:
    """The matrix or kernel of a layer, which makes its outputs."""
    weight = dict(last_part(module).named_parameters(recurse=False)).get("weight")
    return weight if weight is not None and weight.dim() > 1 else None


class _LayerOutputs(LayerObserver):
    """Remembers which node of the autograd graph makes the output of which layer, and the size of the output."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(layers)
        self.names: dict[Node, str] = {}
        self.sizes: dict[Node, float] = {}

    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        made = output_in(layer, output)
        if isinstance(made, Tensor) and made.grad_fn is not None:
            self.names[made.grad_fn] = name
            self.sizes[made.grad_fn] = root_mean_square(made)
        return output


class _Sum:
    """A sum of two tensors: their nodes and sizes, and the gradient that comes back to it."""

    def __init__(self, a: Tensor, b: Tensor, alpha: float) -> None:
        assert a.grad_fn is not None
        assert b.grad_fn is not None
        self.nodes = a.grad_fn, b.grad_fn
        self.sizes = root_mean_square(a), abs(alpha) * root_mean_square(b)
        self.gradient = 0.0
        self.result: Node

    def watch(self) -> None:
        """Measure the gradient of the next backward pass."""
        self.result.register_prehook(self._arrive)

    def _arrive(self, gradients: tuple[Tensor | None, ...]) -> None:
        if gradients[0] is not None:
            self.gradient = float(gradient_size(gradients[0].detach()))


def _is_frozen_embedding(func: Any, result: Any) -> bool:
    """Whether a stream may start here without a node."""
    floating = isinstance(result, Tensor) and result.is_floating_point()
    return getattr(func, "__name__", "") == "embedding" and floating and not result.requires_grad


class _Sums(TorchFunctionMode):
    """Collects the sums of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[_Sum] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run the function; take a sum of two tensors that both have a gradient."""
        kwargs, func = kwargs or {}, original(func)
        both = args[:2] if getattr(func, "__name__", "") in _SUMS and kwargs.keys() <= {"alpha"} else ()
        tensors = [t for t in both if isinstance(t, Tensor) and t.grad_fn is not None and t.is_floating_point()]
        found = _Sum(tensors[0], tensors[1], kwargs.get("alpha", 1)) if len(tensors) == 2 else None
        result = func(*args, **kwargs)
        if _is_frozen_embedding(func, result):
            result = own_copy(result.requires_grad_())
        if found is not None and isinstance(result, Tensor) and result.grad_fn is not None:
            found.result = result.grad_fn
            self.seen.append(found)
        return result


def _branch(found: _Sum, outputs: _LayerOutputs, streams: dict[Node, Node]) -> Branch | None:
    """The branch of a sum; None if neither part is computed from the other one, or no layer is in between.

    In x + f(x) + g(x), g is computed from the stream of the sum before: `streams` has that of each sum, by its result.
    """
    starts = [(stream, 1 - stream, found.nodes[stream]) for stream in (0, 1)]
    while starts:
        for stream, branch, start in starts:
            end = found.nodes[branch]
            between = _between(start, end)
            layers = [outputs.names[node] for node in between if node in outputs.names]
            if not layers:
                continue
            streams[found.result] = found.nodes[stream]
            last = [node for node in _first_met(end, outputs.names) if node in between]
            size = outputs.sizes[last[0]] if len(last) == 1 else math.nan
            return Branch(
                layers=tuple(dict.fromkeys(reversed(layers))),
                ends=tuple(dict.fromkeys(outputs.names[node] for node in last)),
                size=found.sizes[branch],
                stream=found.sizes[stream],
                factor=found.sizes[branch] / size if size > 0 else math.nan,
            )
        starts = [(stream, branch, streams[start]) for stream, branch, start in starts if start in streams]
    return None


def _between(start: Node, end: Node) -> list[Node]:
    """The nodes on the ways from `start` to `end`, the latest first, without `start`; none if there is no way."""
    order: list[Node] = []  # sources before their readers
    visited: set[Node] = {start}
    waiting: list[tuple[Node, bool]] = [(end, False)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            order.append(node)
        elif node not in visited:
            visited.add(node)
            waiting.append((node, True))
            waiting += [(source, False) for source in _sources(node)]
    reached = {start}
    for node in order:
        if not reached.isdisjoint(_sources(node)):
            reached.add(node)
    return [node for node in reversed(order) if node in reached]


def _first_met(end: Node, names: Mapping[Node, str]) -> list[Node]:
    """The nodes of layers that are met first on the ways back from `end`."""
    met, visited, waiting = [], set(), [end]
    while waiting:
        node = waiting.pop()
        if node in visited:
            continue
        visited.add(node)
        if node in names:
            met.append(node)
        elif not normalises(node):
            waiting += _sources(node)
    return met


def _sources(node: Node) -> Iterable[Node]:
    return [source for source, _ in node.next_functions if source is not None]
