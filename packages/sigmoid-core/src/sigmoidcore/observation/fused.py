"""What a sampled step shows of hidden layers that are computed as one (`nn.fused`): a pass of all, and one of each.

The gradients and outputs of many layers lie side by side there, and are reduced to numbers on the way back, while they
are in the cache.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from sigmoidcore.nn.fused import LayerListener, Listener, Stack
from unstuck.observation import NONE, accumulates, backward_pass, keeps_graph, version
from unstuck.observation.sizes import row_norms


class StackPass:
    """One forward pass through a stack; `layers` has the pass of each core by name. See `gradients.Pass`.

    It calls `arrived` with the layers whose gradients have arrived and count.
    """

    def __init__(
        self,
        stack: Stack,
        names: Sequence[str],
        x: Tensor,
        leaf: Node | None,
        samples: int,
        arrived: "Callable[[Mapping[str, LayerPass]], None]",
        keeps_node: bool,
    ) -> None:
        self.leaf = get_gradient_edge(stack.weights[0]).node if leaf is None else leaf
        self.samples, self.rows = samples, x.shape[:-1].numel()
        self.again, self.backward, self.differentiated = backward_pass() != NONE, NONE, False
        self.layers = {name: LayerPass(self, i, stack.cores[i], [None, *names][i]) for i, name in enumerate(names)}
        self._in_order = list(self.layers.values())
        self._stack = stack
        self._versions = [version(weight) for weight in stack.weights]
        self._scales = torch.tensor([1.0, *stack.factors[:-1]], dtype=torch.float64, device=x.device)
        self._arrived, self._keeps_node = arrived, keeps_node
        self._inputs: list[Tensor] = []
        self._sum: Tensor | None = None  # of the gradients, if the graph is kept and more of them can come back
        self._graph: weakref.ref[Listener] | None = None

    def listener(self) -> Listener:
        """The function that the stack calls when a gradient arrives; the graph keeps it alive, but not this pass."""
        listener = partial(_listen, weakref.ref(self))
        self._graph = weakref.ref(listener)
        return listener

    @property
    def waits(self) -> bool:
        """Whether a gradient can still come back: its graph is there."""
        return self._graph is not None and self._graph() is not None

    def begin(self, node: Node, x: Tensor, blocks: Sequence[Tensor]) -> LayerListener | None:
        """A gradient arrives; returns the listener for those of the layers, if it counts for any."""
        everywhere = accumulates(self.leaf)
        counts = [everywhere or accumulates(get_gradient_edge(bias).node) for bias in self._stack.biases]
        if not any(counts):
            self.differentiated |= torch.is_grad_enabled()
            return None
        self._arrived({name: layer for (name, layer), of in zip(self.layers.items(), counts, strict=True) if of})
        self.backward = backward_pass()
        if self._keeps_node:
            # Read now: PyTorch 2.6 does not show them once the graph is freed.
            self._in_order[0].inputs, self._in_order[-1].exit = (node.next_functions[0][0],), node
        if not self._inputs:
            self._inputs = [x.detach(), *(t for block in blocks for t in block.detach().unbind())]
        if self._sum is None and keeps_graph():
            kind = torch.promote_types(x.dtype, torch.float32)
            self._sum = x.new_zeros(len(counts), *self._inputs[1].shape, dtype=kind)
        for layer, of in zip(self._in_order, counts, strict=True):
            layer.counts |= of
        return partial(self._reduce, None if everywhere else x.new_tensor(counts).view(-1, 1, 1))

    def _reduce(self, mask: Tensor | None, start: int, gradients: Tensor, outputs: Tensor) -> None:
        """Reduce the gradients and outputs of some layers in a row, [layers, rows, neurons], to numbers."""
        these = slice(start, start + len(gradients))
        if mask is not None:
            gradients = gradients * mask[these]
        if self._sum is not None:
            gradients = self._sum[these].add_(gradients)
        norms = row_norms(gradients.flatten(0, 1)).view(gradients.shape[:2]) / self._scales[these, None]
        t = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        slopes = 1 - t.square().mean(1)
        for layer, norm, slope in zip(self._in_order[these], norms.unbind(), slopes.unbind(), strict=True):
            layer.norms, layer.slopes = norm, slope

    def changed_since(self, layer: int) -> bool:
        """Whether a layer's weights have changed, so that its preactivations cannot be computed."""
        return version(self._stack.weights[layer]) != self._versions[layer]

    def preactivations(self, layer: int) -> Tensor:
        """The preactivations of a layer, [rows, neurons]."""
        stack, x = self._stack, self._inputs[layer]
        if layer:
            x = x * stack.factors[layer - 1]
        return nn.functional.linear(x.flatten(0, -2), stack.weights[layer], stack.biases[layer])


def _listen(stack_pass: "weakref.ref[StackPass]", node: Node, x: Tensor, blocks: Sequence[Tensor]) -> Any:
    """Begin, if the pass is still there."""
    found = stack_pass()
    return None if found is None else found.begin(node, x, blocks)


@dataclass(slots=True, eq=False)
class LayerPass:
    """One layer of a `StackPass`, with the interface of `gradients.Pass`; what it lacks is that of the stack."""

    stack: StackPass
    layer: int
    core: Any
    before: str | None
    counts: bool = False
    inputs: tuple[Node | None, ...] = ()  # the node before the stack, for its first layer
    exit: Node | None = None  # the node of the stack, for its last layer
    norms: Tensor | None = None  # of each row of the gradient
    slopes: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stack, name)

    @property
    def changed(self) -> bool:
        """Whether the preactivations cannot be computed."""
        return self.stack.changed_since(self.layer)

    @property
    def x(self) -> Tensor:
        """Preactivations in the dtype of the slope: [rows, neurons]."""
        x: Tensor = self.stack.preactivations(self.layer).to(self.core.shift.dtype)
        return x

    def gradients(self) -> tuple[Tensor, ...]:
        """The norms of the rows of the gradient, [rows]."""
        return (self.norms,) if self.counts and self.norms is not None else ()

    def settle(self) -> None:
        """Nothing to do: gradients are numbers already."""

    def let_go(self) -> None:
        """Nothing to do: the graph keeps no pass."""
