"""Queries over the calls of a forward pass and its loss: what they tell of the layers that they read."""

from unstuck.measure import calls, losses
from unstuck.measure.flow import Flow
from unstuck.step.node import Node


def wire(flow: Flow, training: bool) -> None:
    """Look at all calls in order, and note what reads the layers. The model was in this mode."""
    dropped = set[Node]()
    layers = {layer.node: layer for layer in flow.layers}
    for node in flow.calls:
        name, own = node.function, layers.get(node)
        reads = [read for read in node.reads if read.op == "call_function"]
        takes = name in calls.PRODUCTS | calls.LOSSES if own is None else own.role != "activation"
        shapes = next((shapes for read in reads if (shapes := flow.swapped(read))), None) if takes else None
        if shapes:
            flow.swaps[name if own is None else own.name] = shapes
        if own is not None and own.role != "attention":
            own.reads = max(map(flow.producer, reads), default=-1)
        if name in calls.LOSSES:
            flow.loss = name, flow.read(node.reads[0])
        if node.module is not None and (share := _dropped(flow, node, dropped, training)):
            flow.dropouts.append(share)
        if core := flow.scaled_core(node):
            core.scale = float(node.args[-1]) ** calls.SCALINGS[name]
        _note_reader(flow, node)
        if name in calls.MULTIPLICATIONS and len(node.reads) > 1:
            for one, other in (node.reads[:2], node.reads[1::-1]):
                _note_product(flow, one, other)
        for read in reads if name in calls.PRODUCTS else ():
            layer = flow.layer(read)
            if layer is not None and layer.function == "softmax":
                layer.attends = True


def _dropped(flow: Flow, node: Node, before: set[Node], training: bool) -> float:
    """The share that a call of dropout drops; 0 for another.

    In training mode not that of attention, whose weights come from a softmax or have no origin, nor of a tensor
    that was dropped before, as by branches side by side: what one drops, others read.
    """
    if node.function not in ("dropout", calls.DOT_PRODUCT):
        return 0.0
    read, share = flow.layer(node.reads[0]), calls.dropped(node)
    attention = node.function == calls.DOT_PRODUCT or (read is not None and read.function == "softmax")
    if share and training and (attention or node.reads[0] in before):
        return 0.0
    if share and not attention:
        before.add(node.reads[0])
    return share


def _note_reader(flow: Flow, node: Node) -> None:
    """Note a softmax, a logarithm or a clamp of probabilities that reads a layer."""
    name, layer = node.function, None
    if name in calls.SOFTMAXES:
        layer = flow.layer(node.reads[0])
    elif node.module is None and calls.clamps_probabilities(node):
        name, layer = "clamp", flow.layer(node.reads[0])
    elif node.module is None and (log := losses.logarithm(flow, node)) and not log.shifted:
        layer = log.layer if log.layer.role == "weights" else None
    if layer is not None and not (layer.read_by and name in ("log", "logsumexp")):  # of logits, in torch.distributions
        layer.read_by = name


def _note_product(flow: Flow, factor: Node, other: Node) -> None:
    """An activation's output times another signal is a gate; a parameter scales the layer that it multiplies."""
    sources, layer, parameter = flow.origin(other).sources, flow.layer(factor), factor.through(calls.MOVES)
    if layer is not None and layer.role == "activation" and sources:
        layer.gate = True
    if parameter.op == "parameter" and sources.bit_count() == 1:
        flow.layers[sources.bit_length() - 1].scaled_by += (parameter.target,)
