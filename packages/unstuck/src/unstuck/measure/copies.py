"""What a loss compares or multiplies: results that are always equal, teachers, advantages of groups that are mixed."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
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
LIMITED = frozenset({"exp", *calls.CLAMPS})
"""What reads the difference of new and old values in PPO: it is 0 in the first step after new samples."""
BALANCED = 1e-3
"""Mean of the advantages of a group, relative to their size."""


def of_twins(again: Again, earlier: Sequence[Step]) -> dict[str, Any]:
    """Results that the loss compares and that are always the same."""
    return {"twin": next(_equal(again), None) or _old_ones_anew([*earlier, again.step], again)}


def _equal(again: Again) -> Iterator[Twin]:
    """Comparisons of two results of weights that are equal."""
    own = _weights(again.step)
    pairs = [(node, pair) for node in again.step.needed() if (pair := _pair(node)) and all(own.get(n) for n in pair)]
    results = again.run([one for _node, pair in pairs for one in pair])
    for (node, pair), a, b in zip(pairs, results[::2], results[1::2], strict=True):
        one, other = (a.exp(), b) if node.function == "kl_div" and not node.kwargs.get("log_target") else (a, b)
        product, same = node.function in calls.PRODUCTS, own[pair[0]] == own[pair[1]]
        if product and pair[0] is pair[1]:  # both views may stand in one tensor
            one, other = a.tensor_split(2)
        readers = {user.function for user in node.users if user.requires_grad}
        ratio = bool(readers) and readers <= LIMITED
        allowed = ratio and not all(n.requires_grad for n in pair)  # the first step after new samples
        if (same or again.trained) and not allowed and _are_equal(one, other, ROUNDED if same else EXACT):
            yield Twin("views" if product else "ratio" if ratio else "results", node.function, _line(node))


def _weights(step: Step) -> dict[Node, int]:
    """The weights that a node depends on, as bits; nodes that no weighted call leads to are left out."""
    found, bits = dict[Node, int](), dict[Node, int]()
    for node in step.needed():
        before = 0
        for read in node.reads:
            before |= found.get(read, 0)
        for read in node.reads[1:] if node.function in calls.WEIGHTED else ():
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
        one, other = calls.unscaled(one), calls.unscaled(other)
        return (one, other) if len(one.shape) == 2 and one.shape == other.shape else None
    scaled = [read for user in node.users if user.function in calls.SCALINGS for read in user.reads]
    relative = one in scaled or other in scaled  # as in the overlap of boxes, GIoU
    apart = one.through(SAME) is not other.through(SAME) and not relative
    return (one, other) if node.function in COMPARISONS and one.shape == other.shape and apart else None


def _are_equal(one: Tensor, other: Tensor, tolerated: float) -> bool:
    """Whether numbers are equal that are not all the same."""
    varied = one.shape == other.shape and one.numel() > 0 and bool((one != one.flatten()[0]).any())
    return varied and bool(((one - other).abs() <= tolerated * one.abs().max()).all())


def _old_ones_anew(steps: Sequence[Step], again: Again) -> Twin | None:
    """Old log-probabilities that are computed in each step although the samples are the same."""
    found = [(step, *ratio) for step in steps if (ratio := _ratio(step)) is not None]
    values = [Again(step, again.values).run([node.reads[1]])[0] for step, node, _own in found]
    kept = [
        not own and a.shape == b.shape and torch.equal(a, b)
        for ((one, _, _), (other, _, own)), (a, b) in zip(pairwise(found), pairwise(values), strict=True)
        if _read_the_same(one, other)
    ]
    return Twin("old", found[-1][1].function, _line(found[-1][1])) if len(kept) > 1 and not any(kept) else None


def _ratio(step: Step) -> tuple[Node, bool] | None:
    """The difference of new and old log-probabilities, which is exponentiated, and whether the step computes both."""
    own = _weights(step)
    for node in (call.reads[0] for call in step.calls("exp")):
        new, old = (_pair(node) if node.function in calls.DIFFERENCES else None) or (node, node)
        if new in own and new.requires_grad and not old.requires_grad and own.get(old, own[new]) == own[new]:
            return node, old in own
    return None


def _read_the_same(one: Step, other: Step) -> bool:
    """Whether the embeddings of two steps read the same tokens."""
    tokens = [[n.value for n in Again(step, {}).tokens if n.value is not None] for step in (one, other)]
    pairs = list(zip(*tokens, strict=False))
    return bool(pairs) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def of_groups(again: Again) -> dict[str, Any]:
    """The size of groups whose advantages have a mean of 0 while those of the rows of a prompt have not."""
    own = _weights(again.step)
    for node in again.step.needed() if again.tokens else ():
        if node.module is None and node.function in calls.MULTIPLICATIONS and len(node.reads) == 2:
            for moving, factor in (node.reads, node.reads[::-1]):
                floating = factor.dtype is not None and factor.dtype.is_floating_point
                if moving in own and factor not in own and floating and factor.shape[:1] == (again.samples,):
                    ids, values = again.run([again.tokens[0], factor])
                    if size := _mixed(ids, values.reshape(again.samples, -1).sum(1)):
                        return {"mixed_groups": size}
    return {}


def _mixed(ids: Tensor, advantages: Tensor) -> int | None:
    """The size of groups of rows with several prompts whose advantages add up to 0."""
    for length in range(ids.shape[1] - 1, 0, -1):
        prompts = {tuple(row): i for i, row in enumerate(ids[:, :length].tolist())}
        prompt = torch.tensor([prompts[tuple(row)] for row in ids[:, :length].tolist()])
        size = math.gcd(*prompt.bincount().tolist())
        if size > 1 and len(prompts) > 1:
            limit, x = BALANCED * float(advantages.abs().max()), advantages.cpu()
            own = torch.zeros(len(x), dtype=x.dtype).index_add(0, prompt, x)
            others = (x.view(-1, size).mean(1), x.view(size, -1).mean(0))
            balanced = len(kinds(x)) > 1 and any(float(means.abs().max()) < limit for means in others)
            return size if balanced and float(own.abs().max()) > 10 * size * limit else None
    return None


def of_teachers(again: Again, earlier: Sequence[Step]) -> dict[str, Any]:
    """The largest share that a network drops whose weights stay and whose outputs the loss compares with others."""
    own, shares = _weights(again.step), [0.0]
    for pair in filter(None, map(_pair, again.step.needed())):
        made = again.step.needed([n for n in pair if n in own and not n.requires_grad])
        taught = any(n.requires_grad for n in pair) and not any(n.op == "parameter" for n in made)
        if taught and earlier and _stay(again.step, earlier[0], made):
            shares += [calls.dropped(n) for n in made if n.function in ("dropout", calls.DOT_PRODUCT)]
    return {"teacher_dropout": max(shares) or None}


def _stay(step: Step, before: Step, made: Sequence[Node]) -> bool:
    """Whether another network has the same weights as in a step before; they are constants, in the same order."""
    first, last = ([n for n in one.nodes if n.op == "constant"] for one in (before, step))
    weights = {n.reads[1] for n in made if n.function in calls.WEIGHTED and len(n.reads) > 1}
    known = [(a.value, b.value) for a, b in zip(first, last, strict=False) if b in weights]
    same = (a is not None and b is not None and a.shape == b.shape and torch.equal(a, b) for a, b in known)
    return bool(known) and all(same)


def of_zero_inputs(again: Again, earlier: Sequence[Step]) -> dict[str, Any]:
    """The shape of an input of floating-point numbers that is 0 in all steps, and may not be."""
    blank = (n for n in again.read if n.value is not None and n.value.is_floating_point() and not n.value.any())
    for node in (n for n in blank if _is_alone(again.step, n)):
        others = [n.value for step in earlier for n in step.nodes if n.op == node.op and n.shape == node.shape]
        if sum(x is not None and not x.any() for x in others) >= len(earlier):
            return {"zero_input": node.shape}
    return {}


def _is_alone(step: Step, node: Node) -> bool:
    """Whether an input of one number for each sample, or with weights of its own, is read where no other one is."""
    if math.prod(node.shape[1:]) == 1:  # else it is one of several coordinates, such as the time of initial conditions
        readers = {(user.function, user.module) for user in node.users}
        others = (n for n in step.nodes if n.op == node.op and n is not node)
        return not any((user.function, user.module) in readers for n in others for user in n.users)
    own = (call for call in step.calls("linear", *calls.CONVOLUTIONS) if call.reads[0].through(calls.MOVES) is node)
    # Weights that are shared, as over the steps of a sequence, may begin with a state of 0.
    return any(sum(user.function == call.function for user in call.reads[1].users) == 1 for call in own)


def _line(node: Node) -> str:
    """File and line of the user's code that makes a call; empty if they are not known."""
    file, number = node.place
    return f"{Path(file).name}:{number}" if file else ""
