"""Inputs: what has no effect on outputs or the loss, and what belongs to other samples."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import EQUAL, Again, by_position, differ, kinds, rolled, with_others_in
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.rules.standstill import PATIENT_STEPS, falling
from unstuck.rules.tokens import Tokens, tokens
from unstuck.rules.visible import Reconstruction, reconstruction
from unstuck.step import Node, Step
from unstuck.step.node import reached
from unstuck.wording import listed, named, number

UNRELATED, RELATED = 0.02, 0.2
"""Change of the loss with an input of other samples, over the loss: less if it is not used, more if it is."""
FEWEST_FITS, FITS, MIRRORED = 24, 0.55, 0.6
"""Samples whose outputs are compared with targets of others and mirrored ones, at least; shares that fit less well."""
SAME = 1e-6
"""A loss that changes by less of itself knows both sides of a pair by one input."""
ALIKE = 0.1
"""How much neighbours differ in data that are in order, over the deviation of all."""
UNMOVED = 1e-5
"""Change of outputs that do not know positions."""
NORMAL = (0, 1, 0, 3), (1, 2, 15, 96)
"""The first four moments of a normal distribution, and the variances of what they are the means of."""
FAR, FEWEST_NUMBERS, COMPARED = 4.0, 64, 16
"""Deviations that a moment may be off; numbers that are judged, at least; columns that tell rows apart."""
HIDES = -1e3
"""A number that hides a key of an attention if it is added to its scores, at most."""
MAY_REST = ("mask", "type_ids", "labels", "cache", "position")
"""Parts of the names of inputs that a model may leave alone."""
NOT_TRAINED = ("US301", "US302", "US303", "US306", "US309", "US401", "US501", "US502", "US505")
OTHER_CAUSES = ("US506", "US601", "US606", "US609", "US702", "US709")
"""Rules that explain why a network learns nothing from its samples."""
CUTS = calls.MOVES | {"unfold", "einsum"}
POSITIONS = ("pos", "rot", "freq", "place")
"""Parts of the names of what knows positions."""
MASKS = frozenset({"add", "radd", "masked_fill", "where", "float"})

ROUNDED = "Check for a division of whole numbers (`//`) or a conversion that rounds to 0, as of times from 0 to 1."
USE = "Check where it goes: it may be overwritten, multiplied by 0, or sliced away."
PASS_ON = (
    "Check what the data loader and the processor return (`pixel_values`): is something missing, or replaced by 0?"
)
CHECK_PAIRS = "Check that samples and targets belong together, what the network reads, and the learning rate."
FLIP_TOGETHER = "Give both to one random transform, or draw the numbers of the flips once for both."
ADD_POSITIONS = "Add positions: embeddings of places, or rotations along the dimension of the tokens."
READ_LAST = "In a causal model the first token sees nothing else: read the last token that is not padding."


@rule("US703", "an input without effect", remedy=USE, hidden_by=("US401",), mistake=True, stalls=True)
def without_effect(evidence: Evidence) -> Found | None:
    """The network has learned to do without an input, or cannot see it."""
    found, places = evidence.ask(tokens) or Tokens(), evidence.ask(reconstruction) or Reconstruction()
    idle = evidence.ask(unread) or Unread()
    names = [name for name in idle.names if not any(word in name for word in MAY_REST)]
    if names:
        text = _("No call reads the model's input {names}.", names=listed(names))
        alone = Severity.NOTE if idle.all else None  # a factorisation has parameters only
        return Found((), len(names), 0, text, severity=alone)
    if shape := evidence.ask(zero_input):
        text = _("The input of shape {shape} is 0 in all recorded steps.", shape=list(shape))
        return Found((), 0.0, 0.0, text, ROUNDED if math.prod(shape[1:]) == 1 else PASS_ON)
    if places.alike:
        text = _("The outputs are the same at all places of a sample that the loss counts, and the targets are not.")
        return shown(text, ADD_POSITIONS)
    cut = evidence.ask(without_order)
    patient = (evidence.latest.step or 0) >= PATIENT_STEPS - 1
    # Sets may be given as the columns of a table or as tokens.
    if cut == "patches" or (cut and not falling(evidence) and (patient or cut == "columns")):
        text = _("The outputs do not depend on the order of the patches, columns or tokens of an input.")
        return shown(text, ADD_POSITIONS)
    if found.first_only:
        return shown(_("The outputs depend on the first token of a sample and on no other."), READ_LAST)
    if what := evidence.ask(lost_places):
        text = _(
            "Queries and keys of the first attention know nothing of positions, although {what} is added or multiplied "
            "in.",
            what=what,
        )  # fmt: skip
        return shown(text, ADD_POSITIONS)
    for effect in evidence.ask(effects) or ():
        if effect.targets or effect.moves or effect.module is None:  # such as a clock of an environment
            continue
        where = _("`{call}` in {module}", call=effect.reader, module=named(effect.module))
        text = _(
            "The outputs do not depend on the input of shape {shape}, which {reader} reads: they are the same with "
            "those of other samples.",
            shape=list(effect.shape), reader=where,
        )  # fmt: skip
        return shown(text)
    return None


@rule("US704", "unrelated to the samples", remedy=CHECK_PAIRS, hidden_by=(*NOT_TRAINED, *OTHER_CAUSES), signal=True)
def unrelated(evidence: Evidence) -> Found | None:
    """The network answers all samples alike, or learns from pairs that do not belong together."""
    patient = (evidence.latest.step or 0) >= PATIENT_STEPS - 1
    opposed = any(m.foreign_steps for m in evidence.measurements)  # a discriminator that its generator deceives
    found = () if opposed else evidence.ask(effects) or ()
    # The loss of a generator that learns from its other inputs, or may, compares outputs with no data.
    judged = evidence.latest.comparisons and all(c.varied for c in evidence.latest.comparisons)
    learns = any(not effect.change <= RELATED for effect in found if effect.moves and not effect.noise)
    for effect in found:
        free = effect.noise and learns and not judged
        if free or not (patient and effect.moves and SAME < effect.change < UNRELATED):
            continue
        what = _("the targets") if effect.targets else _("the input of shape {shape}", shape=list(effect.shape))
        text = _(
            "The loss is {loss}, and {others} with {what} of other samples: the network has learned nothing from them.",
            loss=number(effect.loss), others=number(effect.loss_of_others), what=what,
        )  # fmt: skip
        return Found((), effect.change, UNRELATED, text, shown=True)
    if evidence.ask(mirrored):
        text = _("Outputs fit the mirror images of their targets as well: inputs and targets were flipped apart.")
        return shown(text, FLIP_TOGETHER)
    return None


@dataclass(frozen=True)
class Effect:
    """What an input of the step, or its targets, matter to the loss, after some training."""

    shape: tuple[int, ...]
    reader: str  # the function that reads it first
    module: str | None = None  # in which it runs; None: the loss
    targets: bool = False  # the loss reads it, and the outputs do not depend on it
    moves: bool = True  # the outputs change if it is that of other samples
    loss: float = math.nan
    loss_of_others: float = math.nan  # the loss if it is that of other samples
    change: float = math.inf  # between the two, over the first
    noise: bool = False  # it passes for that of a generator


@question
def effects(again: Again) -> tuple[Effect, ...]:
    """What the loss becomes if one input, or the targets, are those of other samples."""
    if not (again.trained and again.outputs):
        return ()
    losses, found = again.step.losses, list[Effect]()
    before = sum(float(x.sum()) for x in again.run(losses))
    read, needed = set(again.read), set(again.step.needed(losses))
    targets = [n for n in again.given if n not in read and n in needed]
    several = [node for node in again.given if _varies(node)]
    for nodes in [*([node] for node in several if node in read), [node for node in several if node in targets]]:
        if not nodes or len(several) < 2:
            continue
        results = again.run([*losses, *again.outputs], dict.fromkeys(nodes, rolled))
        after, outputs = sum(float(x.sum()) for x in results[: len(losses)]), results[len(losses) :]
        if nodes[0] in read and any(n.module is None and n in needed for n in nodes[0].users):
            after = math.nan  # it is its own target, and belongs to no other input
        moved = any(differ(a, b, 0.0) for a, b in zip(again.before, outputs, strict=True))
        first, of_targets = next(iter(nodes[0].users)), nodes[0] in targets
        change = abs(after - before) / abs(before) if before and not any(map(_is_in_order, nodes)) else math.inf
        noise = not of_targets and _is_noise(nodes[0], again.earlier)
        found.append(
            Effect(nodes[0].shape, first.function, first.module, of_targets, moved, before, after, change, noise)
        )
    return tuple(found)


@question
def mirrored(again: Again) -> bool:
    """Whether outputs fit the mirror images of their targets as well as the targets, and those of others less."""
    if not again.trained or any(len(n.shape) != 4 for n in (*again.read[:1], *again.outputs[-1:])):
        return False
    fits, *mirrors = torch.cat([_fits(one) for one in (again, *map(again.other, again.earlier))]).T
    known = [x[x.isfinite()] for x in mirrors]
    return fits.mean().item() > FITS and any(len(x) >= FEWEST_FITS and x.mean().item() < MIRRORED for x in known)


def _fits(again: Again) -> Tensor:
    """For each image: the share of targets of others that the output fits less than its own, and of two mirrored."""
    (target,) = (n for n in again.given if n not in again.read and len(n.shape) > 2)
    (x,), y = again.run(again.outputs[-1:]), target.value
    assert y is not None
    x = x - x.mean((2, 3), keepdim=True)  # which pixels are more, not how many there are

    def fit(y: Tensor) -> Tensor:
        own = x * y if x.shape == y.shape else x.gather(1, y.reshape(len(y), 1, *x.shape[2:]).long())
        return own.flatten(1).sum(1)

    def coarse(y: Tensor) -> Tensor:  # without noise
        return functional.avg_pool2d(y.float().reshape(len(y), -1, *y.shape[-2:]), 4, ceil_mode=True)

    def less(mirror: Tensor) -> Tensor:
        moved, usual = ((coarse(y) - coarse(x)).square().flatten(1).mean(1) for x in (mirror, rolled(y)))
        return torch.where(moved < usual.mean() / 2, math.nan, (fit(y) > fit(mirror)).float())  # symmetric: not known

    others = torch.stack([fit(y.roll(k, 0)) for k in range(1, min(len(y), COMPARED))])
    return torch.stack([(fit(y) > others).float().mean(0), *(less(y.flip(dim)) for dim in (-1, -2))], 1)


def _varies(node: Node) -> bool:
    """Whether the samples of an input differ; masks do not count."""
    value = node.value
    if value is None or value.dtype == torch.bool:
        return False
    added = value.is_floating_point() and bool(((value == 0) | (value < HIDES)).all())  # to the scores of an attention
    mask = added or (not value.is_floating_point() and value.dim() > 1 and kinds(value) <= {0, 1})
    return not mask and bool((value != value[:1]).any())


def _is_in_order(node: Node) -> bool:
    """Whether neighbours are nearly alike, as in points along a line."""
    x = node.value
    return x is not None and x.is_floating_point() and bool((x - rolled(x)).abs().mean() < ALIKE * x.std(0).mean())


def _is_noise(node: Node, earlier: Sequence[Step]) -> bool:
    """Whether an input passes for normal noise that is drawn anew in every step, as that of a generator."""
    x = node.value
    if x is None or not x.is_floating_point() or x.numel() < FEWEST_NUMBERS or not earlier:
        return False
    moments = [float(x.float().pow(k).mean()) for k in range(1, 5)]
    off = (abs(m - of) / math.sqrt(v / x.numel()) for m, of, v in zip(moments, *NORMAL, strict=True))
    if max(off) >= FAR:
        return False
    others = [n.value for step in earlier for n in step.nodes if n.op == node.op and n.shape == node.shape]
    seen = [rows.reshape(len(x), -1)[:, None, :COMPARED] for rows in others if rows is not None]
    again = any(bool((rows == x.reshape(len(x), -1)[:, :COMPARED]).all(-1).any()) for rows in seen)
    return bool(seen) and not again


@dataclass(frozen=True)
class Unread:
    """Inputs of the model that no call reads."""

    names: tuple[str, ...] = ()
    all: bool = False


@question
def unread(again: Again) -> Unread | None:
    """Inputs of the model that no call reads."""
    names = tuple(again.step.unread)
    data = (n for n in again.step.nodes if n.op in ("input", "constant") and not n.requires_grad)
    readers = (user for node in data for user in node.users)
    return Unread(names, all(user.module is None for user in readers)) if names else None


@question
def zero_input(again: Again) -> tuple[int, ...] | None:
    """The shape of an input that is 0 in all steps, and may not be: floating-point numbers, or times, of waves."""
    blank = (n for n in again.read if n.value is not None and not n.value.any())
    floating = (n for n in blank if n.floating or _is_time(n))
    for node in (n for n in floating if _is_alone(again.step, n)):
        others = [n.value for step in again.earlier for n in step.nodes if n.op == node.op and n.shape == node.shape]
        if sum(x is not None and not x.any() for x in others) >= len(again.earlier):
            return node.shape
    return None


def _is_time(node: Node) -> bool:
    """Whether sines or cosines read multiples of a number, as of a time; a first place is added to others before."""
    passed = calls.MOVES | calls.MULTIPLICATIONS | calls.PRODUCTS | calls.SCALINGS.keys() | {"outer", "cat"}
    readers = reached([node], lambda n: n.users if n is node or (n.function in passed and not n.requires_grad) else ())
    return any(n.function in ("sin", "cos") for n in readers)


def _is_alone(step: Step, node: Node) -> bool:
    """Whether an input of one number for each sample, or one with weights of its own, is read apart from all others."""
    if math.prod(node.shape[1:]) == 1:  # else it is one of several coordinates, such as the time of initial conditions
        readers = {(user.function, user.module) for user in node.users}
        others = (n for n in step.nodes if n.op == node.op and n is not node)
        return not any((user.function, user.module) in readers for n in others for user in n.users)
    own = (call for call in step.calls("linear", *calls.CONVOLUTIONS) if call.reads[0].through(calls.MOVES) is node)
    # Weights that are shared, as over the steps of a sequence, may begin with a state of 0.
    return any(sum(user.function == call.function for user in call.reads[1].users) == 1 for call in own)


@question
def without_order(again: Again) -> str:
    """Whether an attention's outputs do not know the order of the patches of an image, of columns, or of tokens."""
    attends = any(again.step.calls(calls.DOT_PRODUCT, calls.ATTENTION, "softmax"))
    if not (attends and again.trained and again.outputs):
        return ""
    dropping = again.step.calls("dropout", calls.ATTENTION, calls.DOT_PRODUCT)
    kept: dict[Node, Callable[..., object]] = {n: partial(_without_dropout, n) for n in dropping}
    before = again.run(again.outputs, edits=kept)
    for node in again.step.calls("linear", "conv2d"):
        read = node.reads[0].through(CUTS)
        cut = len(read.shape) > 1 and read.shape != node.reads[0].shape and len(node.shape) == 3
        if read in again.read and (_is_patching(node) if node.function == "conv2d" else cut):
            dims = [-2] if cut else [-2, -1]
            after = again.run(again.outputs, {node: lambda x, dims=dims: x.roll([1] * len(dims), dims)}, kept)  # type: ignore[misc]
            moved = any(differ(a, b, UNMOVED) for a, b in zip(before, after, strict=True))
            return "" if moved else "columns" if len(read.shape) == 2 else "patches"
    length = next((node.shape[dim] for pair in _queries_and_keys(again) for node, dim in pair[:1]), 0)
    for node in (n for n in again.tokens if n.shape[1] == length and _is_text(n)):
        others = again.run(again.outputs, {node: lambda x: with_others_in(x, slice(1, 3))}, kept)
        after = again.run(again.outputs, {node: lambda x: _swapped(x, 1, 1, 1)}, kept)
        seen = any(differ(a, b, UNMOVED) for a, b in zip(before, others, strict=True))
        if seen and all(_follows(a, b, again.samples, length) for a, b in zip(before, after, strict=True)):
            return "tokens"
    return ""


def _follows(before: Tensor, after: Tensor, samples: int, length: int) -> bool:
    """Whether outputs stay the same if two tokens change their places, or change theirs."""
    one, other = (by_position(x, samples, length) for x in (before, after))
    swapped = one is not None and other is not None and not differ(_swapped(one, 1, 1, 1), other, UNMOVED)
    return swapped or not differ(before, after, UNMOVED)


def _without_dropout(node: Node, *args: Any, **kwargs: Any) -> Any:
    """A call of dropout or of attention that drops nothing."""
    if node.function == "dropout":
        return args[0]
    off = {"training": False} if node.function == calls.ATTENTION else {"dropout_p": 0.0}
    return node.target(*args, **{**kwargs, **off})


def _is_text(tokens: Node) -> bool:
    """Whether a token may stand at different places, which that of a column of a table does not."""
    x = tokens.value
    return x is not None and bool((x[:, 1] != x[:, 2]).any() and torch.isin(x[:, 1], x[:, 2:]).any())


def _is_patching(node: Node) -> bool:
    """Whether a convolution reads patches that do not overlap."""
    given = calls.given(node, "input", "weight", "bias", "stride")
    weight, stride = given.get("weight"), given.get("stride", 1)
    strides = tuple(stride) if isinstance(stride, tuple | list) else (stride, stride)
    return isinstance(weight, Node) and weight.shape[2:] == strides and max(strides) > 1 and node.shape[-1] > 1


@question
def lost_places(again: Again) -> str | None:
    """What knows positions, if queries and keys of the first attention do not depend on it.

    If two tokens change their places, so do their queries and keys, and nothing else is different.
    """
    pair = next(_queries_and_keys(again), None)
    if pair is None or not again.trained:  # embeddings of places may start at 0
        return None
    nodes = [node for node, _dim in pair]
    needed = again.step.needed(nodes)
    known = next(filter(None, map(_positions, needed)), None)
    count = pair[1][0].shape[pair[1][1]]
    first = next((n for n in needed if _count(n) in (count, count - 1)), None)
    if known is None or first is None or set(again.given).isdisjoint(again.step.needed([first])):
        return None
    before, after = again.run(nodes), again.run(nodes, {first: lambda x: _swapped(x, *_places(first), 0)})
    swapped = (
        all(
            not differ(_swapped(x, dim, 1, at), y, EQUAL) and differ(x, y, EQUAL)
            for x, y, (_node, dim) in zip(before, after, pair, strict=True)
        )
        for at in {0, count - (_count(first) or 0)}
    )
    return known if any(swapped) else None


def _queries_and_keys(again: Again) -> Iterator[list[tuple[Node, int]]]:
    """Queries and keys of each attention, with the dimension of the places."""
    for node in again.step.needed():
        if node.function == calls.ATTENTION:
            yield [(node.reads[0], 0), (node.reads[1], 0)]
        elif node.function == calls.DOT_PRODUCT:
            yield [(node.reads[0], -2), (node.reads[1], -2)]
        elif calls.is_product(node) and any(user.function in calls.SOFTMAXES for user in _scaled(node)):
            yield [(node.reads[0], -2), (node.reads[1], -1)]


def _scaled(node: Node) -> Iterator[Node]:
    """What reads scores, also after they were scaled and masked."""
    return reached([node], lambda n: n.users if n is node or n.function in {*calls.SCALINGS, *MASKS} else ())


def _positions(node: Node) -> str | None:
    """What knows positions: a table, by its name, or angles."""
    if node.op in ("parameter", "buffer") and any(word in node.target for word in POSITIONS):
        return str(node.target) if len(node.shape) > 1 else None
    return node.function if node.function in ("sin", "cos") else None


def _places(node: Node) -> tuple[int, int]:
    """The dimensions that count places in the result of a call, from the first to so many."""
    return (2, len(node.shape) - 2) if node.function in calls.CONVOLUTIONS else (1, 1)


def _count(node: Node) -> int | None:
    """How many tokens or patches an embedding, a linear layer or a convolution of images returns."""
    if node.function in calls.CONVOLUTIONS:
        return math.prod(node.shape[2:])
    return node.shape[1] if node.function in ("embedding", "linear") and len(node.shape) == 3 else None


def _swapped(x: Tensor, dim: int, dims: int, at: int) -> Tensor:
    """With two neighbouring places in each other's place."""
    dim %= x.dim()
    flat = x.flatten(dim, dim + dims - 1)
    order = list(range(flat.shape[dim]))
    order[at : at + 2] = order[at : at + 2][::-1]
    return flat.index_select(dim, torch.tensor(order, device=x.device)).reshape(x.shape)
