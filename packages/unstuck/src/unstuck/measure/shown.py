"""Places of inputs: which of them a model is shown and the loss counts, and whether outputs know their place."""

from typing import Any

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.again import EQUAL, FEWEST, Again, differ
from unstuck.step import Node

HIDDEN, FEW, UNMOVED = 0.05, 0.01, 1e-5
"""Share of an input that the model is not shown, at least; share of what the loss counts; change of outputs that do not
know positions."""
CUTS = calls.MOVES | {"unfold", "einsum"}
COMPARISONS = calls.REGRESSION_LOSSES | calls.DIFFERENCES


def of_patches(again: Again) -> dict[str, Any]:
    """Whether an attention's outputs change with the order of the patches of an image."""
    attends = any(again.step.calls(calls.DOT_PRODUCT, calls.ATTENTION, "softmax"))
    for node in again.step.calls("linear", "conv2d") if attends and again.trained and not again.draws else ():
        read = node.reads[0].through(CUTS)
        cut = len(read.shape) > 2 and read.shape != node.reads[0].shape and len(node.shape) == 3
        if read in again.read and (_is_patching(node) if node.function == "conv2d" else cut):
            dims = [-2] if cut else [-2, -1]
            after = again.run(again.outputs, {node: lambda x, dims=dims: x.roll([1] * len(dims), dims)})  # type: ignore[misc]
            moved = any(differ(a, b, UNMOVED) for a, b in zip(again.before, after, strict=True))
            return {"order_of_patches": moved}
    return {}


def _is_patching(node: Node) -> bool:
    """Whether a convolution reads patches that do not overlap."""
    given = calls.given(node, "input", "weight", "bias", "stride")
    weight, stride = given.get("weight"), given.get("stride", 1)
    strides = tuple(stride) if isinstance(stride, tuple | list) else (stride, stride)
    return isinstance(weight, Node) and weight.shape[2:] == strides and max(strides) > 1 and node.shape[-1] > 1


def of_reconstructions(again: Again) -> dict[str, Any]:
    """What a loss counts that compares outputs with numbers, such as hidden parts of the inputs."""
    for node in again.step.needed():
        output, target = node.reads[:2] if node.function in COMPARISONS and len(node.reads) > 1 else (node, node)
        if target.requires_grad:
            output, target = target, output
        if node.module or output.shape != target.shape or not output.requires_grad or target.requires_grad:
            continue
        (gradient,) = again.gradients([output])
        if gradient is not None:
            found = {"seen_only": any(_is_shown(again, gradient != 0, target, read) for read in again.read)}
            if again.trained:
                found["same_places"] = _are_alike(again, gradient != 0, output, target)
            return found
    return {}


def _is_shown(again: Again, counts: Tensor, target: Node, read: Node) -> bool:
    """Whether all that the loss counts of a target is what the model was shown of the same input."""
    same = [n for n in again.step.needed([target]) if _is_copy(n, read)]
    floating = read.dtype is not None and read.dtype.is_floating_point and len(read.shape) > 2
    reached = again.gradients([read], again.outputs)[0] if same and floating else None
    if reached is None:
        return False
    hidden, (x,) = reached == 0, again.run([read])
    padding = len(x[hidden]) == 0 or bool((x[hidden] == x[hidden][0]).all())
    if padding or float(hidden.float().mean()) < HIDDEN or bool((hidden == hidden[:1]).all()):
        return False
    (before,), (shown,), (other,) = (
        again.run([target], dict.fromkeys(same, lambda x, part=part: x + part))  # type: ignore[misc]
        for part in (torch.zeros_like(x), ~hidden, hidden)
    )
    unseen = (other != before) & counts
    return bool((shown != before).any()) and float(unseen.sum()) <= FEW * float(counts.sum())


def _is_copy(node: Node, read: Node) -> bool:
    """Whether a node is an input, or has the same numbers."""
    one, other = node.value, read.value
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)


def _are_alike(again: Again, counts: Tensor, output: Node, target: Node) -> bool:
    """Whether outputs at the places that count are the same within each sample, and the targets are not."""
    counted = counts.any(-1)
    if len(output.shape) != 3 or output.shape[0] != again.samples or not (counted.sum(1) >= FEWEST).any():
        return False
    rows = counted.sum(1) >= FEWEST
    outputs, targets = (x[rows] for x in again.run([output, target]))
    places = list(zip(outputs, targets, counted[rows], strict=True))
    alike = all(not _vary(x[c]) and _vary(t[c]) for x, t, c in places)
    return alike and differ(outputs, outputs.roll(1, 0), EQUAL)


def _vary(x: Tensor) -> bool:
    return differ(x, x[:1], EQUAL)
