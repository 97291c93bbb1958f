"""Queries about the calls of a loss: what it compares, its terms, constants and advantages in it."""

from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.flow import UNKNOWN, Flow
from unstuck.measure.layer_call import LayerCall
from unstuck.step.node import Node, reached

Pairing = tuple[str, str, Tensor, Tensor, bool]
"""The function, the name of the layer or "", outputs and targets, and whether they are swapped."""
Pair = tuple[Node, Node]
"""Outputs and targets."""

SHIFTS = calls.CLAMPS | calls.ADDITIONS | calls.DIFFERENCES
SLIGHT = 0.01
"""The largest bound or summand that only keeps a logarithm finite."""
MOST_NODES, MOST_MOVES = 256, 16
CUTS = frozenset({"detach", "tensor", "as_tensor", "new_tensor", "grad"})
"""Functions that return the numbers of outputs without their graph."""
SUMS = calls.ADDITIONS | calls.DIFFERENCES | {"isub", "stack", "cat"}
SCALINGS = calls.MULTIPLICATIONS | {"div", "divide", "true_divide", "truediv", "itruediv"}
LINEAR = SUMS | SCALINGS | calls.MOVES | {"neg", "mean", "sum"}
"""Functions that leave a term of a loss a term."""
CHOICES = frozenset({"gather", "take_along_dim"})
LOGS = frozenset({"log", "log_softmax", "logsumexp"})
LIKELIHOODS = frozenset({"cross_entropy", "nll_loss", "binary_cross_entropy_with_logits"})
LIKELIHOOD = calls.MOVES | CHOICES | SHIFTS | SCALINGS | {"log", "neg", "sum", "broadcast_tensors", "stack", "cat"}
"""Functions on the way from the log-probability of an action to the outputs."""
LAYERS = calls.CONVOLUTIONS | {"linear", "addmm", "mm", "matmul"}


# What it compares.


def comparison(flow: Flow, node: Node) -> Pairing | None:
    """What a call compares: a loss function, a difference, or a product or sum that a loss by hand is made of."""
    in_loss, name = node.module is None, node.function
    if name in calls.LOSSES or (in_loss and name in calls.DIFFERENCES):
        given = node.args[0:3:2] if name in calls.OF_TWO else node.args[:2]
        names = ("input", "input1", "target", "other")
        pair = _pair(flow, [*given, *(node.kwargs[key] for key in names if key in node.kwargs)])
        swapped = pair is not None and given[0:1] != () and given[0] is pair[1]
        if pair is None and name in calls.DIFFERENCES:
            pair = _detached_pair(flow, given)
        return None if pair is None else _pairing(flow, name, pair, swapped)
    if in_loss and name in calls.MULTIPLICATIONS:
        return _cross_entropy(flow, node) or _pairs_all(flow, node)
    if in_loss and name in calls.ADDITIONS:
        return _overlap(flow, node) or _pairs_all(flow, node)
    return None


def _pair(flow: Flow, pair: Sequence[Any]) -> Pair | None:
    """Outputs, which come from the model and have a gradient, and targets, which have none."""
    if len(pair) != 2 or not all(isinstance(x, Node) for x in pair):
        return None
    outputs, targets = pair if pair[0].requires_grad else pair[::-1]
    known = outputs.requires_grad and not targets.requires_grad and flow.origin(outputs) is not UNKNOWN
    return (outputs, targets) if known else None


def _detached_pair(flow: Flow, pair: Sequence[Any]) -> Pair | None:
    """Outputs without a gradient, as in an advantage, and targets, if the difference pairs all of them."""
    if len(pair) != 2 or not all(isinstance(x, Node) for x in pair) or any(x.requires_grad for x in pair):
        return None
    outputs, targets = pair if flow.origin(pair[0]).sources else pair[::-1]
    known = flow.origin(outputs).sources and flow.origin(targets) is UNKNOWN
    return (outputs, targets) if known and calls.pairs_all(outputs.shape, targets.shape) else None


def _pairing(flow: Flow, name: str, pair: Pair, swapped: bool = False) -> Pairing | None:
    outputs, targets = (node.tensor() for node in pair)
    if outputs is None or targets is None:
        return None
    return name, flow.read(pair[0]), outputs, targets, swapped


def _pairs_all(flow: Flow, node: Node) -> Pairing | None:
    pair = _pair(flow, node.args)
    pairs = pair is not None and calls.pairs_all(pair[0].shape, pair[1].shape)
    return _pairing(flow, node.function, pair) if pair is not None and pairs else None


def _products(flow: Flow) -> Iterator[Node]:
    """The products in the loss so far, latest first."""
    in_loss = takewhile(lambda node: node.module is None, reversed(flow.calls))
    return (node for node in in_loss if node.function in calls.MULTIPLICATIONS)


def _overlap(flow: Flow, node: Node) -> Pairing | None:
    """Outputs and targets that a loss multiplies, if it adds the same, too (Dice, IoU)."""
    pair = _pair(flow, node.args)
    reads = "" if pair is None else flow.read(pair[0]) or flow.summed(pair[0])
    for product in _products(flow) if reads else ():
        both = _pair(flow, product.args)
        if both is not None and flow.read(both[0]) == reads and both[0].shape == both[1].shape:
            return _pairing(flow, calls.OVERLAP, both)
    return None


class Logarithm(NamedTuple):
    """The logarithm of an output p of a layer, or of 1 - p."""

    layer: LayerCall
    complement: bool
    shifted: bool  # by more than `SLIGHT`


def logarithm(flow: Flow, node: Node) -> Logarithm | None:
    """The logarithm that a call takes of an output, which may be clamped or shifted by a number."""
    complement = shifted = False
    if node.function != "log" or len(node.reads) != 1:
        return None
    node = node.reads[0]
    while node.function in SHIFTS and len(node.reads) == 1 and node.module is None:
        turned = node.function == "rsub" or (node.function in calls.DIFFERENCES and node.args[0] is not node.reads[0])
        numbers = (x for x in (*node.args, *node.kwargs.values()) if isinstance(x, int | float))
        shifted |= turned or abs(min(numbers, default=0.0)) > SLIGHT
        complement, node = complement != turned, node.reads[0]
    layer = flow.layer(node)
    return None if layer is None else Logarithm(layer, complement, shifted)


def _weighed(flow: Flow, product: Node) -> tuple[Logarithm, Node, Node] | None:
    """The logarithm that a product has, its call, and the targets that multiply it."""
    pair = [x for x in product.args[:2] if isinstance(x, Node)]
    if len(pair) != 2:
        return None
    log, targets = pair if pair[0].requires_grad else pair[::-1]
    known = None if targets.requires_grad or targets.shape != log.shape else logarithm(flow, log)
    return None if known is None else (known, log, targets)


def _cross_entropy(flow: Flow, node: Node) -> Pairing | None:
    """The outputs and the targets of t log(p) + (1 - t) log(1 - p), once the second product is computed."""
    second = _weighed(flow, node)
    if second is None or not second[0].complement:
        return None
    rest = second[2].tensor()
    for product in _products(flow):
        first = _weighed(flow, product) if product is not node else None
        if first is None or first[0].complement or first[0].layer is not second[0].layer:
            continue
        outputs, factor = first[1].reads[0].tensor(), first[2].tensor()
        if outputs is None or factor is None or rest is None or factor.shape != rest.shape:
            return None
        for targets, other in ((factor, rest), (-factor, rest), (-factor, -rest)):
            if torch.allclose(targets + other, torch.ones_like(other)):
                return "binary_cross_entropy", first[0].layer.name, outputs, targets, False
        return None
    return None


# What it adds up.


def terms(loss: Node) -> Iterator[Node]:
    """The calls that a loss adds up, from the loss on."""

    def added(node: Node) -> list[Node]:
        one = node.function not in SCALINGS or len(node.moving) < 2
        return node.moving if one and node.function in LINEAR else []

    return islice(reached([loss], added), MOST_NODES)


def constant_term(flow: Flow, loss: Node) -> str:
    """The function that cut the graph of a number that a loss adds, or the loss function that returned it; or ""."""
    for node in terms(loss):
        whole = node.function in ("stack", "cat") or not any(size != 1 for size in node.shape)
        for read in node.reads if node.function in SUMS and node.requires_grad and whole else ():
            label = "" if read.requires_grad or any(size != 1 for size in read.shape) else _cut(flow, read)
            if label:
                return label
    return ""


def _cut(flow: Flow, node: Node) -> str:
    """The function that made a constant of outputs, in the loss."""
    waiting = [node]
    for node in waiting:
        if len(waiting) > MOST_NODES:
            break
        floating = node.dtype is None or node.dtype.is_floating_point
        if node.module is not None or not node.grad_enabled or node.requires_grad or not floating:
            continue
        outputs = any(x.requires_grad and (node.function == "grad" or flow.origin(x).sources) for x in node.reads)
        if node.function in calls.LOSSES or (node.function in CUTS and outputs):
            return node.function
        if not node.function.endswith("_like") and not node.function.startswith("new_zeros"):
            waiting += node.reads
    return ""


# Advantages.


def moves_its_value(loss: Node) -> bool:
    """Whether a term of a loss is a log-probability times data minus an output, and both have a gradient."""
    return any(factor.requires_grad and _is_advantage(factor) for factor in _factors_of_choices(loss))


def is_of_a_policy(loss: Node) -> bool:
    """Whether a term of a loss is a log-probability times numbers of the network that have no gradient any more."""
    return any(not factor.requires_grad and _has_lost_its_graph(factor) for factor in _factors_of_choices(loss))


def _factors_of_choices(loss: Node) -> Iterator[Node]:
    """What terms of a loss multiply log-probabilities by."""
    for node in terms(loss):
        factors = node.reads if node.function in calls.MULTIPLICATIONS else ()
        for one, other in (factors, factors[::-1]) if len(factors) == 2 else ():
            if one.requires_grad and _is_log_probability(one):
                yield other


def _has_lost_its_graph(node: Node) -> bool:
    """Whether something in a sum was detached, or computed without gradients."""
    parts = reached([node], lambda n: n.reads if n.function in LINEAR else ())
    return any(n.function == "detach" or not n.grad_enabled for n in islice(parts, MOST_NODES))


def _is_log_probability(node: Node) -> bool:
    """Whether a call returns the log-probability of an action: of a class chosen, or of a normal distribution."""
    passed = set[str]()
    for n in islice(reached([node], lambda n: n.moving[:1] if n.function in LIKELIHOOD else ()), MOST_MOVES):
        passed |= {n.function, *(read.function for read in n.moving if read.function == "logsumexp")}  # `Categorical`
        passed |= {"gather"} if n.function == "getitem" and len(n.reads) > 1 else set()
    gaussian = not passed.isdisjoint({"div", "truediv"}) and not passed.isdisjoint({"pow", "square"})
    return gaussian or not passed.isdisjoint(LIKELIHOODS) or not (passed.isdisjoint(CHOICES) or passed.isdisjoint(LOGS))


def _is_advantage(node: Node) -> bool:
    """Whether a call returns a sum of data and of outputs of layers, which a number may scale."""
    parts = list(terms(node))
    ends = [n.function in LAYERS or not n.function for n in parts if n.function not in LINEAR]
    adds = (n for n in parts if n.function in calls.ADDITIONS | calls.DIFFERENCES)
    return bool(ends) and all(ends) and any(len(n.moving) < 2 for n in adds)
