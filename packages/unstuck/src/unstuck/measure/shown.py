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
COMPARISONS = calls.REGRESSION_LOSSES | calls.DIFFERENCES
LATER = 2
"""Dimensions before the features: samples and places."""


def of_shown(again: Again) -> dict[str, Any]:
    """Whether a reconstruction counts hidden parts of its inputs, and differs between places."""
    for node in again.step.needed():
        pair = () if node.module or node.function not in COMPARISONS else node.reads[:2]
        if len(pair) < 2 or pair[0].shape != pair[1].shape or pair[0].requires_grad == pair[1].requires_grad:
            continue
        output, target = pair if pair[0].requires_grad else pair[::-1]
        if output not in again.step.needed(again.step.losses):
            continue
        alike = _are_alike(again, output, target) if again.trained else False
        return {"same_places": alike, "seen_only": any(_counts_shown(again, output, target, x) for x in _inputs(again))}
    return {}


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
