"""Queries over the calls of a forward pass and its loss: what they tell of the layers that they read."""

from dataclasses import dataclass, field

from unstuck.measure import calls, losses
from unstuck.measure.flow import Flow
from unstuck.measure.layer_call import LayerCall
from unstuck.measure.views import Shapes
from unstuck.step.node import Node


@dataclass
class Wiring:
    """What the calls of one pass show, beside the fields of its layers."""

    loss: tuple[str, int] | None = None  # the last loss function that was called, and the layer whose output it read
    swaps: dict[str, Shapes] = field(default_factory=dict)  # by the layer or the function that reads such a view
    narrow_norms: dict[str, int] = field(default_factory=dict)  # modules that normalise one or two numbers together
    dropouts: list[float] = field(default_factory=list)
    output_dropout: float = 0.0  # the share that a dropout right before the loss drops


def wired(flow: Flow, training: bool) -> Wiring:
    """Look at all calls in order; notes in the layers what reads them. The model was in this mode."""
    found, dropped = Wiring(), set[Node]()
    layers = {layer.node: layer for layer in flow.layers}
    for node in flow.calls:
        name, in_loss = node.function, node.module is None
        produced = [flow.layer(read) for read in node.reads]
        own, first = layers.get(node), produced[0] if produced else None
        shapes = next((shapes for read in node.reads if (shapes := flow.swapped(read))), None)
        if shapes and (own.role != "activation" if own is not None else name in calls.PRODUCTS | calls.LOSSES):
            found.swaps[name if own is None else own.name] = shapes
        if own is not None:
            own.disjoint = calls.is_disjoint(node)
            own.softmax_dim = calls.softmax_dim(node) if name == "softmax" else None
            if own.role != "attention":
                own.reads = max((flow.producer(read) for read in node.reads), default=-1)
        if name in calls.LOSSES:
            found.loss = name, flow.producer(node.reads[0])
        if name in calls.LOSSES or (in_loss and name in calls.DIFFERENCES):
            found.output_dropout = max([found.output_dropout, *map(flow.dropped, node.reads)])
        if not in_loss and (share := _dropped(node, first, dropped, training)):
            found.dropouts.append(share)
        if not in_loss and (count := calls.normalised_together(node)) in (1, 2):
            found.narrow_norms[str(node.module)] = count
        if first is not None:
            _note_reader(flow, node, first)
        if in_loss and (log := losses.logarithm(flow, node)) and not log.shifted:
            taken = flow.layers[log.reads]
            taken.read_by = taken.read_by or ("log" if taken.role == "weights" else "")
        if core := flow.scaled_core(node):
            core.scale = float(node.args[-1]) ** calls.SCALINGS[name]
        if name in calls.ROUNDINGS and (source := flow.only_source(node.reads[0])):
            source.rounded_by = name
        if name in calls.MULTIPLICATIONS and len(node.reads) > 1:
            for (layer, factor), other in zip(zip(produced, node.reads, strict=True), node.reads[1::-1], strict=False):
                _note_product(flow, layer, factor, other)
        for layer in produced if name in calls.PRODUCTS else ():
            if layer is not None and layer.function == "softmax":
                _note_attention(layer, node)
    return found


def _dropped(node: Node, read: LayerCall | None, before: set[Node], training: bool) -> float:
    """The share that a call of dropout drops; 0 for another.

    In training mode not that of attention, whose weights come from a softmax or have no origin, nor of a tensor
    that was dropped before, as by branches side by side: what one drops, others read.
    """
    if node.function not in ("dropout", calls.DOT_PRODUCT):
        return 0.0
    attention = node.function == calls.DOT_PRODUCT or (read is not None and read.function == "softmax")
    share = calls.dropped(node)
    if share and training and (attention or node.reads[0] in before):
        return 0.0
    if share and not attention:
        before.add(node.reads[0])
    return share


def _note_reader(flow: Flow, node: Node, layer: LayerCall) -> None:
    """Note a softmax, a logarithm or a clamp of probabilities that reads a layer."""
    name = node.function
    if name == "logsumexp":  # of logits, as in torch.distributions
        layer.read_by = layer.read_by or name
    elif name in calls.SOFTMAXES:
        layer.read_by, over = name, calls.softmax_dim(node)
        mixes = calls.mixes_features(node.shape, over, flow.origin(node.reads[0]).dim)
        layer.read_over = over if mixes else None
    elif node.module is None and calls.clamps_probabilities(node):
        layer.read_by = "clamp"


def _note_product(flow: Flow, layer: LayerCall | None, factor: Node, other: Node) -> None:
    """An activation's output times another signal is a gate; a parameter scales the layer that it multiplies."""
    if layer is not None and layer.role == "activation" and flow.origin(other).sources:
        layer.gate = True
    parameter, source = factor.through(calls.MOVES), flow.only_source(other)
    if parameter.op == "parameter" and source is not None:
        source.scaled_by += (parameter.target,)


def _note_attention(layer: LayerCall, node: Node) -> None:
    """A softmax that a product reads is attention; as its first argument it weighs the keys."""
    layer.attends = True
    square = len(layer.shape) > 2 and layer.shape[-1] == layer.shape[-2]
    weighs = node.reads[0].through(calls.KEEP_PLACES) is layer.node
    over_heads = len(layer.shape) == 4 and layer.softmax_dim == 1
    layer.over_queries |= square and weighs and (over_heads or layer.softmax_dim == len(layer.shape) - 2)
