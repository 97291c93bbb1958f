"""What a loss compares or multiplies: results that are always equal, and advantages of groups that are mixed."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.again import Again, kinds
from unstuck.measure.measurement import Twin
from unstuck.step import Node, Step

EXACT, ROUNDED = 1e-6, 1e-4
"""Differences, relative to the size, of equal results of different weights, and of the same weights."""
COMPARISONS = calls.REGRESSION_LOSSES | calls.DIFFERENCES | {"kl_div", "cosine_similarity", "cosine_embedding_loss"}
SAME = calls.KEEP_PLACES | {"detach", "data"}
SCALINGS = frozenset({"normalize", "mul", "rmul", "div", "truediv"})
LIMITED = frozenset({"exp", *calls.CLAMPS})
"""What reads the difference of new and old values in PPO: it is 0 in the first step after new samples."""
BALANCED = 1e-3
"""Mean of the advantages of a group, relative to their size."""


def of_copies(again: Again, earlier: Sequence[Step] = ()) -> dict[str, Any]:
    """What is the same where it should not be, in a step and those before it."""
    twins = (*_equal(again), *_old_ones_anew([*earlier, again.step], again))
    return {
        "twin": next(iter(twins), None),
        "mixed_groups": _mixed_groups(again),
        "teacher_dropout": _teacher_dropout(again.step, earlier),
        "blank": next((n.shape for n in again.read if _is_blank(n, again, earlier)), ()),
    }


def _equal(again: Again) -> Iterator[Twin]:
    """Comparisons of two results of weights that are equal."""
    own = _weights(again.step)
    pairs = [(node, pair) for node in again.step.needed() if (pair := _pair(node)) and all(own.get(n) for n in pair)]
    results = again.run([one for _node, pair in pairs for one in pair])
    for (node, pair), a, b in zip(pairs, results[::2], results[1::2], strict=True):
        one, other = (a.exp(), b) if node.function == "kl_div" and not node.kwargs.get("log_target") else (a, b)
        product = node.function in calls.PRODUCTS
        if product and pair[0] is pair[1] and len(a) % 2 == 0:  # both views stand in one tensor
            one, other = a.chunk(2)
        elif product and pair[0] is pair[1]:
            continue
        same = own[pair[0]] == own[pair[1]]
        if not (same or again.trained) or not _are_equal(one, other, ROUNDED if same else EXACT):
            continue
        users = [user for user in node.users if user.requires_grad]
        ratio = bool(users) and all(user.function in LIMITED for user in users)
        if ratio and not all(n.requires_grad for n in pair):
            continue
        yield Twin("views" if product else "ratio" if ratio else "results", node.function, line_of(node))


def _weights(step: Step) -> dict[Node, int]:
    """The weights that a node depends on, as bits; nodes that no weighted call leads to are left out."""
    found, bits = dict[Node, int](), dict[Node, int]()
    for node in step.needed():
        before = 0
        for read in node.reads:
            before |= found.get(read, 0)
        if node.function in calls.WEIGHTED:
            for read in node.reads[1:]:
                before |= bits.setdefault(read.through(calls.MOVES), 1 << len(bits))
        if before:
            found[node] = before
    return found


def _pair(node: Node) -> tuple[Node, Node] | None:
    """The two results that a call of the loss compares; None for another call."""
    if node.module or len(node.reads) < 2:
        return None
    one, other = node.reads[:2]
    if node.function in ("matmul", "mm", "rmatmul"):
        one, other = _unscaled(one), _unscaled(other)
        return (one, other) if len(one.shape) == 2 == len(other.shape) and one.shape == other.shape else None
    apart = one.through(SAME) is not other.through(SAME)
    return (one, other) if node.function in COMPARISONS and one.shape == other.shape and apart else None


def _unscaled(node: Node) -> Node:
    """What is moved, normalised or multiplied by a number or a tensor of one."""
    while node.function in calls.MOVES | SCALINGS and node.reads:
        node = next((read for read in node.reads if read.shape), node.reads[0])
    return node


def _are_equal(one: Tensor, other: Tensor, tolerated: float) -> bool:
    """Whether numbers are equal that are not all the same."""
    size = one.abs().max()
    varied = bool((one != one.flatten()[0]).any()) if one.numel() > 1 else bool(size)
    return varied and bool(((one - other).abs() <= tolerated * size).all())


def _old_ones_anew(steps: Sequence[Step], again: Again) -> Iterator[Twin]:
    """Old log-probabilities that change from step to step although the samples are the same."""
    found = [(step, old) for step in steps if (old := _old(step)) is not None]
    pairs = list(zip(found, found[1:], strict=False))
    values = [Again(step, again.values).run([node.reads[1]])[0] for step, node in found]
    changed = [
        one.shape == other.shape and not torch.equal(one, other)
        for ((a, _), (b, _)), one, other in zip(pairs, values, values[1:], strict=False)
        if _inputs_are_equal(a, b)
    ]
    if len(changed) > 1 and all(changed):
        yield Twin("old", found[-1][1].function, line_of(found[-1][1]))


def _old(step: Step) -> Node | None:
    """The difference of new and old log-probabilities whose exponential is a ratio; None without one."""
    own = _weights(step)
    for node in step.needed():
        pair = _pair(node) if node.function in calls.DIFFERENCES else None
        if pair and pair[0] in own and pair[0].requires_grad and pair[1] not in own:
            readers = [n for n in step.calls("exp") if n.reads[0] is node]
            if readers:
                return node
    return None


def _inputs_are_equal(one: Step, other: Step) -> bool:
    """Whether the embeddings of two steps read the same tokens."""
    tokens = [[n.value for n in Again(step, {}).tokens if n.value is not None] for step in (one, other)]
    pairs = list(zip(*tokens, strict=False))
    return bool(pairs) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _mixed_groups(again: Again) -> int | None:
    """The size of groups whose advantages have a mean of 0 while those of the rows of a prompt have not."""
    own = _weights(again.step)
    for node in again.step.needed() if again.tokens else ():
        if node.module is not None or node.function not in calls.MULTIPLICATIONS or len(node.reads) != 2:
            continue
        for moving, factor in (node.reads, node.reads[::-1]):
            rows = factor.shape[:1] == (again.samples,) and factor.dtype is not None and factor.dtype.is_floating_point
            if moving in own and moving.requires_grad and factor not in own and rows:
                ids, values = again.run([again.tokens[0], factor])
                if size := _size_of_mixed_groups(ids, values.flatten(1).sum(1) if values.dim() > 1 else values):
                    return size
    return None


def _size_of_mixed_groups(ids: Tensor, advantages: Tensor) -> int | None:
    for length in range(ids.shape[1] - 1, 0, -1):
        _, prompt, counts = ids[:, :length].unique(dim=0, return_inverse=True, return_counts=True)
        size = math.gcd(*counts.tolist())
        if size > 1 and len(counts) > 1:
            break
    else:
        return None
    limit = BALANCED * float(advantages.abs().max())
    sums = torch.zeros(len(counts), dtype=advantages.dtype).index_add(0, prompt.cpu(), advantages.cpu())
    other = (advantages.view(-1, size).mean(1), advantages.view(size, -1).mean(0))
    balanced = any(float(means.abs().max()) < limit for means in other)
    return size if len(kinds(advantages)) > 1 and balanced and float((sums / counts.cpu()).abs().max()) > 10 * limit else None


def _teacher_dropout(step: Step, earlier: Sequence[Step]) -> float | None:
    """The largest share that a network drops whose weights stay and whose outputs the loss compares with others."""
    own, shares = _weights(step), list[float]()
    for node in step.needed():
        pair = _pair(node) or ()
        targets = [n for n in pair if n in own and not n.requires_grad] if any(n.requires_grad for n in pair) else []
        made = step.needed(targets)
        foreign = [n for n in made if n.op == "constant" and _is_weight(n)]
        if foreign and earlier and _stay(step, earlier[0], foreign) and all(n.op != "parameter" for n in made):
            shares += [calls.dropped(n) for n in made if n.function in ("dropout", calls.DOT_PRODUCT)]
    return max(shares, default=0.0) or None


def _is_weight(node: Node) -> bool:
    return any(user.function in calls.WEIGHTED and node in user.reads[1:] for user in node.users)


def _stay(step: Step, before: Step, weights: Sequence[Node]) -> bool:
    """Whether a step and one before it read the same weights of another network, in the same order."""
    first, last = ([n for n in one.nodes if n.op == "constant"] for one in (before, step))
    pairs = [(first[i], n) for i, n in enumerate(last) if n in set(weights) and i < len(first)]
    known = [(a.value, b.value) for a, b in pairs if a.value is not None and b.value is not None]
    return bool(known) and all(a.shape == b.shape and torch.equal(a, b) for a, b in known)


def _is_blank(node: Node, again: Again, earlier: Sequence[Step]) -> bool:
    """Whether an input of floating-point numbers is 0 in all steps, and weights of its own read it."""
    if node.value is None or not node.value.is_floating_point() or len(node.shape) < 2 or node.value.any():
        return False
    others = [n.value for step in earlier for n in step.nodes if n.op == node.op and n.shape == node.shape]
    readers = [user for user in _users(node) if user.function in {"linear", *calls.CONVOLUTIONS}]
    own = all(len([u for w in user.reads[1:] for u in w.users if u.function == user.function]) < 3 for user in readers)
    blank = [x for x in others if x is not None and not x.any()]
    return bool(readers) and own and len(blank) >= len(earlier)


def _users(node: Node) -> Iterator[Node]:
    """What reads a node, moved or reshaped at most."""
    for user in node.users:
        yield user
        if user.function in calls.MOVES:
            yield from _users(user)


def line_of(node: Node) -> str:
    """File and line of the user's code that makes a call; empty if they are not known."""
    file, number = node.place
    return f"{Path(file).name}:{number}" if file else ""
