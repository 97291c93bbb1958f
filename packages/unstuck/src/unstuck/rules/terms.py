"""The terms of a loss: drowned, with reversed weights of classes, with a gradient in the target."""

import math
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean

import torch
from torch import Tensor

from unstuck.language import _
from unstuck.measure import calls, losses
from unstuck.measure.again import Again
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.rules.standstill import PATIENT_STEPS, UNLEARNED_LOSS
from unstuck.step import Node
from unstuck.step.node import reached
from unstuck.wording import number, percent

NOISE_ONLY, OUTWEIGHED, SMALL_PART, LEAST = 0.05, 0.02, 0.1, 1e-9
REVERSED, DISTINCT, FEWEST_OF_CLASSES, MOST_CLASSES = 1.2, 2.0, 64, 256
PARTS = calls.MOVES | {"exp", "neg", "softplus", "sigmoid", "square", "pow", "reciprocal", "rtruediv"}
"""What makes a factor of a term of the loss from a number that is trained."""
MIXES = calls.MULTIPLICATIONS | {"div", "truediv"}
"""What multiplies a term by a factor."""
DRAWN = frozenset({"randn_like", "randn", "normal"})
"""What draws the noise of a latent; `Normal.rsample` does so by `normal`."""
APART = calls.DIFFERENCES | {"div", "truediv"}
"""What leads to the distance from another mean, in units of a deviation."""
SUMS = calls.ADDITIONS | calls.DIFFERENCES | calls.MOVES | {"mean", "sum", "stack", "cat"}
"""What adds terms up."""

BALANCE = "Give the terms similar sizes: one reduction for all (sum or mean), or a factor for each."
HOLD = "Add what holds it to the loss, such as the logarithm of the variance: `(-log_var).exp() * loss + log_var`."
BATCH_MEAN = 'Use `reduction="batchmean"`.'
INVERT_WEIGHTS = "Weigh each class by the number of all samples over its own; pos_weight is negatives over positives."
STOP = "Call `detach()` on the targets, or compute them under `torch.no_grad()`."
DETACH = "Call detach() on what multiplies the log-probabilities; a loss for regression trains the value."


@rule("US609", "a term of the loss is drowned", remedy=BALANCE, hidden_by=("US303", "US401", "US501"))
def drowned(evidence: Evidence) -> Found | None:
    """Latents, or outputs, that say nothing about their samples, because of a penalty."""
    if free := evidence.ask(free_factor):
        text = _("A factor of {term} trains, and nothing else holds it: it goes to 0, and with it the term.", term=free)
        return shown(text, HOLD)
    terms = evidence.ask(comparing_terms) or ()
    divided = evidence.ask(classes_of_mean)
    if divided is not None and any(t.function == "kl_div" and max(t.shares) < SMALL_PART for t in terms):
        text = _("kl_div with `mean` divides by the {classes} classes, too, and other terms drown it.", classes=divided)
        return Found((), divided, 1.0, text, BATCH_MEAN)
    if not evidence.lasts or (evidence.latest.step or 0) < PATIENT_STEPS - 1:
        return None
    informed = evidence.ask(informed_latents)
    if informed is not None and informed < NOISE_ONLY and evidence.latest.input_spread != 0:
        text = _(
            "The latents are noise: at most {share} of the variance of one comes from the samples. Their divergence "
            "drowns the other terms.",
            share=number(informed),
        )
        return Found((), informed, NOISE_ONLY, text)
    if len(terms) == 1 and 0 < max(terms[0].shares) < OUTWEIGHED and terms[0].rest > UNLEARNED_LOSS:
        text = _(
            "{function} is never more than {share} % of the loss: the other terms drown it.",
            function=terms[0].function, share=percent(max(terms[0].shares)),
        )  # fmt: skip
        return Found((), max(terms[0].shares), OUTWEIGHED, text)
    return None


@dataclass(frozen=True)
class Term:
    """A term of the loss that compares: a loss function, or a squared difference."""

    function: str  # sub: a difference
    shares: tuple[float, ...]  # of the loss, with the first weights of the training and with the last
    rest: float  # what the other terms add with the last weights, over that with the first


@question
def comparing_terms(again: Again) -> tuple[Term, ...]:
    """What terms that compare add to the loss of the step, with the first weights of the training and with the last."""
    if not again.first:
        return ()
    sums = {node for loss in again.step.losses for node in losses.terms(loss)}
    parts = [n for n in again.step.needed() if n.module is None and n.requires_grad and _compares(n, sums)]
    (first, start), (last, end) = (_parts(of, parts) for of in (again.other(again.step, again.first), again))
    return tuple(
        Term(
            function,
            (first[function] / start, last[function] / end),
            (end - last[function]) / (start - first[function] or math.inf),
        )
        for function in first
    )


def _parts(again: Again, nodes: Sequence[Node]) -> tuple[dict[str, float], float]:
    """What terms add to the loss, by their functions: the sum of their numbers times their gradients; and the loss.

    By Euler's theorem on homogeneous functions, squares add half of the product of the difference and its gradient.
    """
    results, count = again.run([*again.step.losses, *nodes]), len(again.step.losses)
    found = dict.fromkeys([node.function for node in nodes], 0.0)
    for node, x, gradient in zip(nodes, results[count:], again.gradients(nodes), strict=True):
        if gradient is not None:
            power = 2 if node.function in calls.DIFFERENCES else 1
            found[node.function] += float(torch.where(gradient == 0, 0.0, gradient * x).sum()) / power
    return found, sum(float(x.sum()) for x in results[:count])


def _compares(node: Node, sums: Container[Node]) -> bool:
    """Whether a call is a loss function, reduced to one number or by a sum, or a difference that is squared."""
    if node.function in calls.LOSSES:
        return len(node.reads) > 1 and (math.prod(node.shape) == 1 or node in sums)
    apart = node.function in calls.DIFFERENCES and len(node.moving) == 1 and len({n.shape for n in node.reads}) == 1
    return apart and any(
        user.function == "square" or user.reads == (node, node) or (user.function == "pow" and user.args[-1] == 2)
        for user in node.users
    )


@question
def informed_latents(again: Again) -> float | None:
    """The largest share of a sampled latent's variance that its mean has, of latents whose means the loss squares."""
    given = set(again.given)
    pairs = [pair for node in again.step.needed() if (pair := _sampled(node)) is not None]
    pairs = [pair for pair in pairs if not given.isdisjoint(again.step.needed(pair[:1]))]  # others are weights
    results, shares = again.run([one for pair in pairs for one in pair]), []
    for mean, noise in zip(results[::2], results[1::2], strict=True):
        for dim in (0, 1) if mean.dim() == 3 else (0,):  # of the samples
            informed = (mean - mean.mean(dim, keepdim=True)).square().mean(dim)
            shares.append(float((informed / (informed + noise.square().mean(dim))).max().clamp_min(LEAST)))
    return max(shares, default=None)


def _sampled(node: Node) -> tuple[Node, Node] | None:
    """The mean and the noise that a latent is the sum of; None of another node."""
    for mean, noise in permutations(node.reads, 2) if node.function in calls.ADDITIONS else ():
        drawn = noise.function in calls.MULTIPLICATIONS and any(
            n.through(calls.MOVES).function in DRAWN for n in noise.reads
        )
        if drawn and noise.requires_grad and mean.shape == node.shape and _has_prior(mean):
            return mean, noise
    return None


def _has_prior(mean: Node) -> bool:
    """Whether the loss squares a mean, or its distance from that of a prior."""

    def is_distance(node: Node) -> bool:
        return node is mean or (node.function in APART | calls.MOVES and len(node.moving) == 1)

    read = reached([mean], lambda node: filter(is_distance, node.users))
    return mean.requires_grad and any(map(_is_squared, read))


@rule("US610", "class weights reversed", remedy=INVERT_WEIGHTS, mistake=True)
def reversed_weights(evidence: Evidence) -> Found | None:
    """The loss counts frequent classes even more: the network answers them always."""
    for found in evidence.ask(classes) or ():
        known = sorted((n, w) for n, w in zip(found.counts, found.weights, strict=True) if n > 0 and w > 0)
        total = sum(n for n, _weight in known)
        if len(known) < 2 or total < FEWEST_OF_CLASSES:
            continue
        (fewest, least), (most, largest) = known[0], known[-1]
        weights = [w for _n, w in known]
        emphasis = sum(n * w for n, w in known) / total / fmean(weights)
        apart = most >= DISTINCT * fewest and largest >= DISTINCT * least
        if apart and (min(weights), max(weights)) == (least, largest) and emphasis > REVERSED:
            text = _(
                "The class with {most} % of the labels has the weight {large}, and the one with {fewest} % has "
                "{small}: rare classes count even less.",
                most=percent(most / total), large=number(largest), fewest=percent(fewest / total), small=number(least),
            )  # fmt: skip
            return Found((), emphasis, REVERSED, text)
    return None


@dataclass(frozen=True)
class Classes:
    """The classes of a loss: their weights, and the labels of each in the recorded steps."""

    weights: tuple[float, ...]
    counts: tuple[float, ...]


@question
def classes(again: Again) -> tuple[Classes, ...]:
    """The losses that weigh classes, in all recorded steps."""
    found = [pair for step in (*again.earlier, again.step) for pair in _weighed(again.other(step))]
    kinds: dict[tuple[float, ...], list[Tensor]] = {}
    for weights, counts in found:
        kinds.setdefault(tuple(weights.tolist()), []).append(counts.float())
    return tuple(Classes(of, tuple(torch.stack(counts).sum(0).tolist())) for of, counts in kinds.items())


def _weighed(again: Again) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights of the classes of each loss, and how many labels each class has."""
    for call in again.step.of_loss(*losses.LIKELIHOODS):
        binary, given = call.function.startswith("binary"), calls.given(call, "input", "target", "weight")
        weight = given.get("pos_weight" if binary else "weight")
        if isinstance(weight, Node):
            targets, weights = again.run([given["target"], weight])
            if binary and weights.numel() in (1, targets.shape[-1]):  # one for all labels, or one for each
                ones, pull = targets.float().sum().cpu(), weights.float().mean().cpu()
                yield torch.stack([torch.ones(()), pull]), torch.stack([targets.numel() - ones, ones])
            elif not binary and not targets.is_floating_point() and 1 < len(weights) <= MOST_CLASSES:
                known = targets[(targets >= 0) & (targets < len(weights))].flatten()
                yield weights, torch.bincount(known, minlength=len(weights))


@rule("US309", "gradient of the target", remedy=DETACH, hidden_by=("US401",), mistake=True)
def not_stopped(evidence: Evidence) -> Found | None:
    """A loss moves its target, too: what an advantage is computed from, or what a prediction is compared with."""
    if function := evidence.ask(moved_target):
        text = _(
            "{function} compares outputs with targets that the network computes, and both have gradients: the targets "
            "move towards the outputs, or all become one.",
            function=function,
        )  # fmt: skip
        return Found((), 1.0, 0.0, text, STOP)
    if not evidence.latest.moves_value:
        return None
    text = _(
        "The loss multiplies log-probabilities by data minus outputs of the network, which have a gradient: it "
        "moves these outputs, too, away from what they estimate."
    )
    return Found((), 1.0, 0.0, text)


@question
def classes_of_mean(again: Again) -> int | None:
    """The classes by which a kl_div beside other terms is divided, because it is a plain mean."""
    several = len(again.step.of_loss(*calls.LOSSES)) > 1
    for call in again.step.of_loss("kl_div") if several else ():
        arguments = calls.given(call, "input", "target", "size_average", "reduce", "reduction")
        if arguments.get("reduction", "mean") == "mean" and call.reads[0].shape[-1:] > (1,):
            return call.reads[0].shape[-1]
    return None


@question
def free_factor(again: Again) -> str | None:
    """The term, never below 0, whose factor trains and falls, and that the loss depends on in no other way."""
    needed = again.step.needed()
    added = set(reached(again.step.losses, lambda n: n.reads if n.function in SUMS else ()))
    for weight in (n for n in needed if n.op == "parameter" and n.requires_grad and n.target in again.first):
        chain = list(reached([weight], lambda n: n.users if _is_part(n) else ()))
        ends = [n for n in needed if n in chain and not _is_part(n)]
        factors = [next(read for read in n.reads if read in chain) for n in ends]
        terms = [next(filter(None, (_term(read) for read in n.reads if read not in chain)), "") for n in ends]
        if terms and all(terms) and all(n.function in MIXES and n in added for n in ends):
            sizes = [
                [float(x.abs().mean()) for x in of.run(factors)] for of in (again.other(again.step, again.first), again)
            ]
            rise = [now > before for before, now in zip(*sizes, strict=True)]  # a denominator has to
            if rise == [n.function not in calls.MULTIPLICATIONS for n in ends]:
                return terms[0]
    return None


def _is_part(node: Node) -> bool:
    """Whether a node is a number that is trained, or a call that computes a factor from one."""
    return not node.function or (node.function in PARTS | MIXES and len(node.reads) == 1)


def _term(node: Node) -> str:
    """The loss function, or the square, that a term is the mean of; "" of another."""
    term = node.through(calls.MOVES | {"mean", "sum"})
    even = term.function in ("square", "abs") or (term.function == "pow" and term.args[-1] == 2)
    return term.function if term.requires_grad and (term.function in calls.LOSSES or even) else ""


def _is_squared(node: Node) -> bool:
    """Whether a difference is an error, squared or as a norm."""
    own = (user for user in node.users if user.function in calls.MULTIPLICATIONS and user.reads == (node, node))
    return any(own) or any(user.function in ("square", "pow", "norm", "abs") for user in node.users)


@question
def moved_target(again: Again) -> str | None:
    """The function that compares outputs with targets that have a gradient, too; None without any.

    Of a regression, the weights of the one are those of the other and at least one more, as of a prediction, or others,
    as of a teacher: of the same shapes, or nothing else is in the loss.
    """
    step = again.step
    losses = ("cross_entropy", "cosine_similarity", "kl_div", *calls.COMPARISONS)
    for node in step.calls(*losses):
        pair = [read for read in node.reads if read.requires_grad][:2]
        if node.module is not None or len(pair) < 2:
            continue
        own = [{n for n in step.needed([read]) if n.op == "parameter"} for read in pair]
        shapes = [Counter(n.shape for n in weights) for weights in own]
        alone = set(step.needed()) == {*step.needed([node]), *reached([node], lambda n: n.users)}
        copied = (shapes[0] <= shapes[1] or shapes[1] <= shapes[0]) and pair[0].shape == pair[1].shape
        alike = copied or node.function == "kl_div" or alone
        taught = own[0] < own[1] or own[1] < own[0] or (alike and not own[0] & own[1])
        if node.function in calls.DIFFERENCES and not (alone and _is_squared(node)):
            continue
        if node.function == "cross_entropy" or (own[0] and own[1] and taught):
            return node.function
    return None
