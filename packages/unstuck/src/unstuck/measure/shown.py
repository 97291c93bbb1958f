"""Places of a reconstruction: which the model is shown, which the loss counts, and whether outputs know their place."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.again import EQUAL, FEWEST, Again, differ
from unstuck.step import Node

HIDDEN, FEW = 0.05, 0.01
"""Share of an input that the model is not shown, at least; share of what the loss counts."""
COPIED = 0.1
"""Mean squared error over the variance of an input that is copied, at most."""
CUTS = calls.MOVES | {"unfold", "einsum"}
COMPARISONS = calls.REGRESSION_LOSSES | calls.DIFFERENCES
LATER = 2
"""Dimensions before the features: samples and places."""


def of_shown(again: Again) -> dict[str, Any]:
    """What becomes of the places of inputs: whether a reconstruction counts hidden parts of its inputs, and differs between places."""
    found = {"order_of_patches": _order_matters(again) if again.trained else None}
    for node in again.step.needed():
        pair = () if node.module or node.function not in COMPARISONS else node.reads[:2]
        if len(pair) < 2 or pair[0].shape != pair[1].shape or pair[0].requires_grad == pair[1].requires_grad:
            continue
        output, target = pair if pair[0].requires_grad else pair[::-1]
        if output not in again.step.needed(again.step.losses):
            continue
        found["same_places"] = again.trained and _are_alike(again, output, target)
        found["seen_only"] = any(_counts_shown(again, output, target, x) for x in _inputs(again))
        found["copies_input"] = again.trained and any(_is_copied(again, output, target, x) for x in again.read)
        break
    return found


def _order_matters(again: Again) -> bool | None:
    """Whether an attention's outputs change with the order of the patches of an image; None without patches."""
    attends = any(again.step.calls(calls.DOT_PRODUCT, calls.ATTENTION, "softmax"))
    for node in again.step.calls("linear", "conv2d") if attends and not again.draws else ():
        read = node.reads[0].through(CUTS)
        cut = read in again.read and len(read.shape) > LATER and read.shape != node.reads[0].shape
        if node.function == "linear" and cut and len(node.shape) == LATER + 1 and node.shape[1] > FEWEST:
            dims: tuple[int, ...] = (1,)
        elif node.function == "conv2d" and read in again.read and _is_patching(node):
            dims = (-2, -1)
        else:
            continue
        after = again.run(again.outputs, {node: lambda x: x.roll([1] * len(dims), dims)})  # noqa: B023
        return any(differ(a, b, EQUAL) for a, b in zip(again.before, after, strict=True))
    return None


def _is_patching(node: Node) -> bool:
    """Whether a convolution reads patches that do not overlap."""
    given = calls.given(node, "input", "weight", "bias", "stride")
    weight, stride = given.get("weight"), given.get("stride", 1)
    strides = tuple(stride) if isinstance(stride, tuple | list) else (stride, stride)
    return isinstance(weight, Node) and weight.shape[2:] == strides and max(strides) > 1 and node.shape[-1] > 1


def _is_copied(again: Again, output: Node, target: Node, read: Node) -> bool:
    """Whether the targets are an input, beside another one, and the outputs are whatever stands in its place."""
    varied = [n for n in again.read if n is not read and n.value is not None and bool((n.value != n.value[:1]).any())]
    floating = read.dtype is not None and read.dtype.is_floating_point and len(read.shape) > 1
    if not floating or not varied or read.shape != output.shape or not _is_copy(target.through(calls.MOVES), read):
        return False
    x = torch.stack([column.roll(i + 1, 0) for i, column in enumerate(read.value.unbind(1))], 1)  # type: ignore[union-attr]
    (made,) = again.run([output], {read: lambda _: x})
    return float((made - x).square().mean()) < COPIED * float(x.var())


def _inputs(again: Again) -> Iterator[Node]:
    """Inputs of the model that are numbers and have places."""
    for node in again.read:
        if node.dtype is not None and node.dtype.is_floating_point and len(node.shape) > LATER:
            yield node


def _counts_shown(again: Again, output: Node, target: Node, read: Node) -> bool:
    """Whether all that the loss counts of a target is what the model was shown of the same input."""
    same = [n for n in again.step.needed([target]) if _is_copy(n, read)]
    if not same:
        return False
    (reached,) = again.gradients([read], again.outputs)
    (counts,) = again.gradients([output])
    if reached is None or counts is None:
        return False
    hidden = reached == 0
    share = float(hidden.float().mean())
    if not HIDDEN < share < 1 or bool((hidden == hidden[:1]).all()):
        return False
    (before,) = again.run([target])
    noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden.device)
    (after,) = again.run([target], dict.fromkeys(same, lambda x: torch.where(hidden, noise.to(x.dtype), x)))
    counted = counts != 0
    unseen = (after != before) & counted
    return bool(counted.any()) and bool((after != before).any()) and float(unseen.sum()) <= FEW * float(counted.sum())


def _is_copy(node: Node, read: Node) -> bool:
    """Whether a node is an input, or has the same numbers."""
    if node is read:
        return True
    one, other = node.value, read.value
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)


def _are_alike(again: Again, output: Node, target: Node) -> bool:
    """Whether outputs at the places that count are the same within each sample, and the targets are not."""
    (counts,) = again.gradients([output])
    if counts is None or len(output.shape) != LATER + 1 or output.shape[0] != again.samples:
        return False
    outputs, targets = again.run([output, target])
    counted = (counts != 0).any(-1)
    rows = counted.sum(1) >= FEWEST
    if not rows.any() or not differ(outputs[rows], outputs[rows].roll(1, 0), EQUAL):
        return False
    return all(not _vary(x[c]) and _vary(t[c]) for x, t, c in zip(outputs[rows], targets[rows], counted[rows], strict=True))


def _vary(x: Tensor) -> bool:
    return differ(x, x[:1], EQUAL)
