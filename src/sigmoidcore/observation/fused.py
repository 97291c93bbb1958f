"""What a sampled step shows of hidden layers that are computed as one (see `stack`): a pass of all, and one of each.

The gradients and outputs of many layers lie side by side there, and are reduced to numbers on the way back, while they
are in the cache.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from sigmoidcore._torch.autograd import NONE, accumulates, backward_pass, keeps_graph
from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import row_norms
from sigmoidcore.nn.fused import Hear, Listener, Stack


class StackPass:
    """One forward pass through a stack.

    Args:
        stack: the stack.
        cores: its cores by name, in order.
        x: what its first layer reads.
        leaf: as of `taps.Pass`; None: one of the first layer.
        samples: as of `taps.Pass`.
        arrived: is called with the layers that a gradient has arrived at which counts.
        keep_node: keep the node in the graph once it has.

    Attributes:
        layers: a pass of each core, by name.
        leaf, samples, rows, again, backward, differentiated: as of `taps.Pass`.
        node: the stack's node, if it is to be kept.
        arrivals: what has come back: one item, or one each time it was settled.
        slopes: mean relative slopes of every core, once a gradient has come back.
    """

    def __init__(
        self,
        stack: Stack,
        cores: Mapping[str, SigmoidCore],
        x: Tensor,
        leaf: Node | None,
        samples: int,
        arrived: "Callable[[Mapping[str, LayerPass]], None]",
        keep_node: bool,
    ) -> None:
        self.leaf = get_gradient_edge(stack.weights[0]).node if leaf is None else leaf
        self.samples, self.rows = samples, x.shape[:-1].numel()
        self.again, self.backward, self.differentiated = backward_pass() != NONE, NONE, False
        self.node: Node | None = None
        self.arrivals: list[Arrival] = []
        self.slopes: list[Tensor | None] = [None] * len(cores)
        names = [None, *cores]
        self.layers = {name: LayerPass(self, i, core, names[i]) for i, (name, core) in enumerate(cores.items())}
        self._stack = stack
        self._versions = [weight._version for weight in stack.weights]
        self._scales = torch.tensor([1.0, *stack.factors[:-1]], dtype=torch.float64, device=x.device)
        self._arrived, self._keep_node = arrived, keep_node
        self._inputs: list[Tensor] = []
        self._graph: weakref.ref[Listener] | None = None

    def listener(self) -> Listener:
        """What `stack` calls when a gradient arrives. The graph keeps it, but not this pass."""
        listener = partial(_listen, weakref.ref(self))
        self._graph = weakref.ref(listener)
        return listener

    @property
    def waits(self) -> bool:
        """Whether a gradient can still come back: its graph is there."""
        return self._graph is not None and self._graph() is not None

    def begin(self, node: Node, x: Tensor, blocks: Sequence[Tensor]) -> Hear | None:
        """A gradient arrives; returns what is to be called with those of the layers, if it counts for any."""
        whole = accumulates(self.leaf)
        counts = [whole or accumulates(get_gradient_edge(bias).node) for bias in self._stack.biases]
        if not any(counts):
            self.differentiated |= torch.is_grad_enabled()
            return None
        self._arrived({name: layer for (name, layer), of in zip(self.layers.items(), counts, strict=True) if of})
        self.backward = backward_pass()
        if self._keep_node:
            self.node = node
        if not self._inputs:
            self._inputs = [x.detach(), *(t for block in blocks for t in block.detach().unbind())]
        if not self.arrivals or self.arrivals[-1].settled:
            self.arrivals.append(Arrival(self._inputs[1:], keeps_graph()))
        arrival = self.arrivals[-1]
        arrival.counts = [a or b for a, b in zip(arrival.counts, counts, strict=True)]
        return partial(self._hear, arrival, None if whole else x.new_tensor(counts).view(-1, 1, 1))

    def _hear(self, arrival: "Arrival", mask: Tensor | None, start: int, gradients: Tensor, outputs: Tensor) -> None:
        """Take the numbers of some layers in a row."""
        these = slice(start, start + len(gradients))
        arrival.add(these, gradients if mask is None else gradients * mask[these], self._scales[these])
        t = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        self.slopes[these] = (1 - t.square().mean(1)).unbind()

    def settle(self) -> None:
        """Reduce gradients to numbers; what comes back later is taken for a micro-batch of its own."""
        if self.arrivals:
            self.arrivals[-1].settle()

    def changed(self, layer: int) -> bool:
        """Whether a layer's weights have changed since, so that its preactivations cannot be had any more."""
        return self._stack.weights[layer]._version != self._versions[layer]

    def x(self, layer: int) -> Tensor:
        """The preactivations of a layer, [rows, neurons]."""
        stack, x = self._stack, self._inputs[layer]
        if layer:
            x = x * stack.factors[layer - 1]
        return nn.functional.linear(x.flatten(0, -2), stack.weights[layer], stack.biases[layer])


def _listen(listening: "weakref.ref[StackPass]", node: Node, x: Tensor, blocks: Sequence[Tensor]) -> Hear | None:
    """Begin, if the pass is still there."""
    stack_pass = listening()
    return None if stack_pass is None else stack_pass.begin(node, x, blocks)


class Arrival:
    """The gradients of one micro-batch, of which nothing but the sizes is kept.

    Args:
        outputs: what every layer has made, for the shape.
        more: whether more can come back through the same graph, which adds up: the gradients are kept, too.

    Attributes:
        counts: whether it counts, for every layer.
        norms: L2 norm for every layer, 0-dim, float64.
        settled: whether nothing is added any more.
    """

    def __init__(self, outputs: Sequence[Tensor], more: bool) -> None:
        self.counts = [False] * len(outputs)
        self.norms: list[Tensor] = [outputs[0].new_zeros((), dtype=torch.float64)] * len(outputs)
        self.settled = False
        kind = torch.promote_types(outputs[0].dtype, torch.float32)
        self._sum = outputs[0].new_zeros(len(outputs), *outputs[0].shape, dtype=kind) if more else None

    def add(self, these: slice, gradients: Tensor, scales: Tensor) -> None:
        """Add the gradients of some layers in a row, [layers, rows, neurons], each divided by its scale."""
        if self._sum is not None:
            gradients = self._sum[these].add_(gradients)
        self.norms[these] = (row_norms(gradients) / scales).unbind()

    def settle(self) -> None:
        """Let go what is only there to be added to."""
        self.settled, self._sum = True, None


class LayerPass:
    """One layer of a `StackPass`; what it has is what `taps.Pass` has.

    Args:
        stack_pass: that of all layers.
        layer: the place of this one.
        core: its core.
        before: name of the core that it reads from in the stack.
    """

    __slots__ = ("_layer", "_pass", "before", "core")

    def __init__(self, stack_pass: StackPass, layer: int, core: SigmoidCore, before: str | None) -> None:
        self._pass, self._layer = stack_pass, layer
        self.core, self.before = core, before

    @property
    def leaf(self) -> Node:
        """See `taps.Pass`."""
        return self._pass.leaf

    @property
    def samples(self) -> int:
        """See `taps.Pass`."""
        return self._pass.samples

    @property
    def rows(self) -> int:
        """Number of samples, times positions, that a neuron has seen."""
        return self._pass.rows

    @property
    def again(self) -> bool:
        """Whether it ran inside a backward pass."""
        return self._pass.again

    @property
    def backward(self) -> int:
        """The number of the latest backward pass that a gradient came back in."""
        return self._pass.backward

    @property
    def differentiated(self) -> bool:
        """Whether the loss contains derivatives."""
        return self._pass.differentiated

    @property
    def entry(self) -> Node | None:
        """The node that the core reads, where that is not another layer's."""
        return self._pass.node if self._layer == 0 else None

    @property
    def exit(self) -> Node | None:
        """The node that is met first on the way back from what the core feeds, where that is not another layer."""
        return self._pass.node if self._layer == len(self._pass.layers) - 1 else None

    @property
    def counts(self) -> bool:
        """Whether a gradient has come back."""
        return any(arrival.counts[self._layer] for arrival in self._pass.arrivals)

    @property
    def waits(self) -> bool:
        """Whether a gradient can still come back."""
        return self._pass.waits

    @property
    def changed(self) -> bool:
        """Whether preactivations cannot be had any more: see `StackPass`."""
        return self._pass.changed(self._layer)

    @property
    def x(self) -> Tensor:
        """Preactivations in the dtype of the slope: [rows, neurons]."""
        return self._pass.x(self._layer).to(self.core.shift.dtype)

    @property
    def slopes(self) -> Tensor | None:
        """Mean relative slopes."""
        return self._pass.slopes[self._layer]

    def gradients(self) -> tuple[Tensor, ...]:
        """The norms of what has come back, 0-dim."""
        at = self._layer
        return tuple([arrival.norms[at] for arrival in self._pass.arrivals if arrival.counts[at]])

    def settle(self) -> None:
        """See `taps.Pass`."""
        self._pass.settle()

    def let_go(self) -> None:
        """The graph keeps no pass, so there is nothing to be done."""
