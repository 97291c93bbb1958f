"""Copies: what a loss compares that is always equal, teachers, and advantages of groups that are mixed."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import Again, kinds
from unstuck.measure.statistics import seen_no_data
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.step import Node, Step, reached

SAME_LOSS, MOVES = 1e-6, 1e-4
"""A loss that is the same in two steps; the relative change of a weight that moves."""
EXACT, ROUNDED = 1e-6, 1e-4
"""Differences, relative to the size, of equal results of different weights, and of the same weights."""
COMPARISONS = calls.COMPARISONS | {"kl_div", "cosine_similarity", "cosine_embedding_loss"}
SAME = calls.KEEP_PLACES | {"detach", "data"}
LIMITED = frozenset({"exp", *calls.CLAMPS})
"""What reads the difference of new and old values in PPO: it is 0 in the first step after new samples."""
DROPPING = ("dropout", calls.DOT_PRODUCT)
BALANCED = 1e-3
"""Mean of the advantages of a group, relative to their size."""

COPY = (
    "Check what both sides are: a reference (`ref_model`) or a teacher is another network, or a copy made before the "
    "training (`copy.deepcopy`, `disable_adapter()`), and chosen and rejected answers differ where the mask counts."
)
AUGMENT = "Draw the random augmentation for each view anew, or keep dropout on where it makes the views."
KEEP_OLD = "Compute the old log-probabilities once for each batch of samples, under `torch.no_grad()`, and keep them."
GROUP = "Repeat each prompt in consecutive rows (`repeat_interleave`), and view the rewards as [prompts, generations]."


@rule("US705", "compared with itself", remedy=COPY, mistake=True)
def compared_with_itself(evidence: Evidence) -> Found | None:
    """Two copies are one, or always equal: what compares them teaches nothing."""
    found = evidence.ask(twin)
    if found is None:
        return _equal_preferences(evidence)
    call = f"`{found.function}`" + (f" ({found.line})" if found.line else "")
    if found.kind == "views":
        text = _("{call} compares outputs with themselves: both views of each sample are the same.", call=call)
        return shown(text, AUGMENT)
    if found.kind == "ratio":
        text = _("Both sides of {call} are the same and have a gradient: the ratio is 1, its gradient 0.", call=call)
        return shown(text, KEEP_OLD)
    if found.kind == "old":
        text = _("The old values in {call} change from step to step with the same tokens: the ratio is 1.", call=call)
        return shown(text, KEEP_OLD)
    text = _("Both sides of {call} are always the same: the network learns nothing from it.", call=call)
    return shown(text)


def _equal_preferences(evidence: Evidence) -> Found | None:
    """A loss of preferences that is ln 2 in all steps: its margin is 0, as if the reference moves along."""
    known = [m for m in evidence.measurements if m.loss is not None]
    moves = all(any(w.gradient and (w.update or 0.0) > MOVES for w in m.weights) for m in evidence.measurements[1:])
    if not moves or not Evidence(known).lasts or any(abs((m.loss or 0.0) - math.log(2)) > SAME_LOSS for m in known):
        return None
    text = _("The loss is ln 2 in all steps, although weights move: what it compares is equal.")
    return Found((), 0.0, SAME_LOSS, text)


@rule("US706", "groups of several prompts", remedy=GROUP, mistake=True)
def mixed_groups(evidence: Evidence) -> Found | None:
    """Completions are rewarded for the question that they had to answer, not for the answer."""
    size = evidence.ask(group)
    if size is None:
        return None
    text = _(
        "The advantages have a mean of 0 in groups of {size} rows, and these rows have different prompts.", size=size
    )
    return shown(text, value=size)


@dataclass(frozen=True)
class Twin:
    """Two results that the loss compares, and that are equal."""

    # results: of the same weights, or of equal ones; ratio: the difference is exponentiated; views: the rows of a
    # similarity; old: the old values of a ratio, which are computed anew in each step
    kind: Literal["results", "ratio", "views", "old"]
    function: str  # that compares them
    line: str = ""  # file and line of the call


@question
def twin(again: Again) -> Twin | None:
    """Results that the loss compares and that are always the same."""
    return next(_equal(again), None) or _old_ones_anew([*again.earlier, again.step], again)


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
            yield Twin("views" if product else "ratio" if ratio else "results", node.function, node.line)


def _weights(step: Step) -> dict[Node, int]:
    """The weights that a node depends on, as bits; nodes that no weighted call leads to are left out.

    What other networks made before the forward pass depends on theirs; what the model made then is data.
    """
    found, bits, own = dict[Node, int](), dict[Any, int](), 0
    for node in (*step.before, *step.needed()):
        before = 0
        for read in node.sources:
            before |= found.get(read, 0)
        if node.made_by is not None and before & own:
            continue
        for read in node.reads[1:] if node.function in calls.WEIGHTED else ():
            weight = read.through(calls.MOVES)
            before |= (bit := bits.setdefault(weight.target if weight.op == "parameter" else weight, 1 << len(bits)))
            own |= bit if weight.op == "parameter" else 0
        if before and (node.dtype is None or node.dtype.is_floating_point):  # tokens that were drawn are data
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
    values = [again.other(step).run([node.reads[1]])[0] for step, node, _own in found]
    kept = [
        not own and a.shape == b.shape and torch.equal(a, b)
        for ((one, _, _), (other, _, own)), (a, b) in zip(pairwise(found), pairwise(values), strict=True)
        if _read_the_same(one, other)
    ]
    return Twin("old", found[-1][1].function, found[-1][1].line) if len(kept) > 1 and not any(kept) else None


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


@question
def group(again: Again) -> int | None:
    """The size of groups whose advantages have a mean of 0 while those of the rows of a prompt have not."""
    own = _weights(again.step)
    for node in again.step.needed() if again.tokens else ():
        if node.module is None and node.function in calls.MULTIPLICATIONS and len(node.reads) == 2:
            for moving, factor in (node.reads, node.reads[::-1]):
                if moving in own and factor not in own and factor.floating and factor.shape[:1] == (again.samples,):
                    ids, values = again.run([again.tokens[0], factor])
                    if size := _mixed(ids, values.reshape(again.samples, -1).sum(1)):
                        return size
    return None


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


def _by_teachers(again: Again) -> Iterator[set[Node]]:
    """What other networks compute that the loss compares with outputs."""
    own = _weights(again.step)
    for pair in filter(None, map(_pair, again.step.needed())):
        made = set(reached((n for n in pair if n in own and not n.requires_grad), lambda node: node.sources))
        if any(n.requires_grad for n in pair) and not any(n.op == "parameter" for n in made):
            yield made


@question
def teacher_dropout(again: Again) -> float:
    """The largest share that a network drops whose weights stay and whose outputs the loss compares with others."""
    taught = [made for made in _by_teachers(again) if again.earlier and _stay(again.step, again.earlier[0], made)]
    return max((calls.dropped(n) for made in taught for n in made if n.function in DROPPING), default=0.0)


@question
def teacher_norms(again: Again) -> int:
    """How many batch normalisations of an averaged network, in evaluation mode, have statistics that saw no data."""
    averaged = [made for made in _by_teachers(again) if again.earlier and not _stay(again.step, again.earlier[0], made)]
    calls_of_norms = {n for made in averaged for n in made if n.function == "batch_norm"}
    given = [calls.given(node, *calls.BATCH_NORM) for node in calls_of_norms]
    known = [(g["running_mean"], g["running_var"]) for g in given if not g.get("training", False)]
    values = [(a.value, b.value) for a, b in known if isinstance(a, Node) and isinstance(b, Node)]
    return sum(a is not None and b is not None and seen_no_data(a, b) for a, b in values)


def _stay(step: Step, before: Step, made: Collection[Node]) -> bool:
    """Whether another network has the same weights as in a step before; they are constants, in the same order."""
    first, last = ([n for n in (*one.before, *one.nodes) if n.op == "constant"] for one in (before, step))
    weights = {n.reads[1] for n in made if n.function in calls.WEIGHTED and len(n.reads) > 1}
    known = [(a.value, b.value) for a, b in zip(first, last, strict=False) if b in weights]
    same = (a is not None and b is not None and a.shape == b.shape and torch.equal(a, b) for a, b in known)
    return bool(known) and all(same)
