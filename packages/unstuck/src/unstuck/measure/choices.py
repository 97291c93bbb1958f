"""Choices of codes and experts; and what is the same whatever the network computes: weights of 1, derivatives of 0."""

from collections.abc import Iterator
from typing import Any

import torch

from unstuck.measure import calls
from unstuck.measure.again import Again
from unstuck.measure.measurement import Choice
from unstuck.step import Node
from unstuck.step.node import reached

CHOOSE = frozenset({"argmax", "argmin", "topk", "max", "min"})
FEWEST_OPTIONS, ROWS_OF_AN_OPTION = 4, 4
"""Options, and choices of each on average, that tell whether one is used."""
JOINED = calls.MOVES | {"stack", "cat"}


def of_choices(again: Again) -> dict[str, Any]:
    """How many options are used after some training, what is always 1, and whether a second derivative is 0."""
    used = tuple(_choices(again)) if again.trained else ()
    return {"constant": _constant(again), "no_curvature": _has_no_curvature(again), "choices": used}


def _choices(again: Again) -> Iterator[Choice]:
    """The choices among what the network computes, and how often each option is taken."""
    needed = set(again.step.needed())
    for node in (n for n in again.step.calls(*CHOOSE) if n.module is not None and n.reads):
        indices = _indices(node)
        if indices is None or indices not in needed or not _depends(again, node.reads[0]) or _predicts(node.reads[0]):
            continue
        scores, chosen = again.run([node.reads[0], indices])
        names, usual = (("input", "k", "dim"), -1) if node.function == "topk" else (("input", "dim"), None)
        dim = calls.given(node, *names).get("dim", usual)
        if not isinstance(dim, int) or scores.dim() < 2:
            continue
        options, rows = scores.shape[dim], scores.numel() // scores.shape[dim]
        if options < FEWEST_OPTIONS or rows < ROWS_OF_AN_OPTION * options or chosen.numel() % rows:
            continue
        counts = torch.bincount(chosen.flatten(), minlength=options).float()
        shares = counts / counts.sum()
        used = float(torch.special.entr(shares).sum().exp())  # as many that are used alike
        yield Choice(node.module or "", options, used)


def _indices(node: Node) -> Node | None:
    """Which option a call takes: of several results the second."""
    if node.function in ("argmax", "argmin"):
        return node
    return next((n for n in node.users if n.function == "getitem" and n.args[1] == 1), None)


def _depends(again: Again, node: Node) -> bool:
    """Whether a number depends on samples and weights."""
    needed = again.step.needed([node])
    return any(n.op == "parameter" for n in needed) and not set(again.given).isdisjoint(needed)


def _predicts(node: Node) -> bool:
    """Whether a loss compares the options with labels: then one of them is an answer, which is read again."""
    readers = reached([node], lambda n: n.users if n is node or n.function in JOINED else ())
    return any(n.function in calls.LOSSES for n in readers)


def _constant(again: Again) -> str | None:
    """A quotient of what the network computes, or a softmax of what it chose, that is 1: nothing before it trains."""
    needed = [n for n in again.step.needed() if n.requires_grad and n.module is not None and n.shape]
    ends = [n for n in needed if n.function in ("div", "truediv", "true_divide", "softmax") and n.shape[0] > 1]
    chosen = {n for n in ends if n.reads[0].through(calls.MOVES).function in CHOOSE}  # an attention may have one key
    ends = [n for n in ends if (n in chosen if n.function == "softmax" else len(n.moving) > 1)]
    for node, value in zip(ends, again.run(ends), strict=True):
        if value.numel() >= again.samples and bool(((value - 1).abs() < 1e-6).all()):
            return f"{node.function} in {node.module}" if node.module else node.function
    return None


def _has_no_curvature(again: Again) -> bool:
    """Whether a derivative of a derivative is 0 everywhere, as if activations consist of straight lines."""
    second = [n for n in again.step.calls("grad") if any(x.function == "grad" for x in again.step.needed(n.reads))]
    parts = [user for node in second for user in node.users if user.dtype is not None]
    with torch.enable_grad():
        return any(not value.any() for value in again.run(parts))
