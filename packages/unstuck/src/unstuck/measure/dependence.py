"""What the outputs and the loss of a recorded step depend on: some of its inputs change, and the step runs again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck._torch.modes import unfollowed
from unstuck.measure import calls
from unstuck.measure.measurement import Dependence, Effect
from unstuck.step import Node, Replay, Step

MOST_CALLS = 3000
"""In longer steps, a few more forward passes take too long."""
FEWEST = 3
"""Samples and positions that a comparison needs."""
FEWEST_LABELS, ALIGNED = 8, 0.99
"""Labels, and the share of them that are tokens of the inputs at the same distance."""
FEWEST_PADDED = 0.02
"""Share of the tokens that are padding."""
EQUAL, LEAK, MIXED = 1e-4, 1e-3, 3e-3
"""Outputs that differ by less of their size are equal; the same beside later tokens, which the largest of all keys may
round in another way; the same beside other samples, which may tell an iteration when to stop."""

Change = Callable[[Tensor], Tensor]


@unfollowed
def depend(step: Step, values: Mapping[str, Tensor], trained: bool = False) -> Dependence | None:
    """What the outputs and the loss depend on; None if the step cannot run again.

    Args:
        step: a recorded step.
        values: parameters and buffers, by name.
        trained: whether they were trained: an input whose weights start at 0 has no effect before.
    """
    again = _Again(step, values)
    if step.unfollowed or len(step.nodes) > MOST_CALLS or again.samples < FEWEST or not again.outputs:
        return None
    with torch.no_grad(), torch.random.fork_rng(devices=[]), suppress(Exception):  # a call may raise anything
        mixed, labels, tokens = _mixed(again), _labels(again), next(iter(again.tokens), None)
        return Dependence(
            mixed,
            _positions(again) if mixed else None,
            **({} if labels is None else _of_labels(again, labels)),
            **({} if tokens is None else _of_tokens(again, tokens, labels)),
            unread=tuple(step.unread),
            unused=tuple(_unused(step)),
            predicted=_predicted(step),
            effects=tuple(_effects(again)) if trained else (),
        )
    return None


@dataclass
class _Again:
    """Runs a step again with other inputs, the same random numbers and the same statistics of batch normalisations."""

    step: Step
    values: Mapping[str, Tensor]
    draws: bool = False  # random numbers

    @cached_property
    def given(self) -> list[Node]:
        """What the step reads that has the samples in its first dimension, in order."""
        read = [
            n for n in self.step.nodes if n.shape and (n.op == "input" or (n.op == "constant" and not n.requires_grad))
        ]
        within = [n for n in read if any(user.module is not None for user in n.users)]
        first = next((n for n in within if n.op == "input"), next(iter(within), None))
        return [] if first is None else [n for n in read if n.shape[0] == first.shape[0]]

    @property
    def samples(self) -> int:
        """How many samples the batch has."""
        return self.given[0].shape[0] if self.given else 0

    @cached_property
    def outputs(self) -> list[Node]:
        """The outputs that have something for each sample; similarities of all pairs of samples do not."""
        floating = [n for n in self.step.outputs if n.dtype is not None and n.dtype.is_floating_point and n.shape]
        return [
            n for n in floating if n.shape[0] and n.shape[0] % self.samples == 0 and self.samples not in n.shape[1:]
        ]

    @cached_property
    def read(self) -> list[Node]:
        """Those of `given` that the outputs depend on."""
        needed = set(self.step.needed(self.outputs))
        return [node for node in self.given if node in needed]

    @cached_property
    def tokens(self) -> list[Node]:
        """The tokens that embeddings read, [samples, positions]."""
        read = (calls.given(n, "input").get("input") for n in self.step.calls("embedding"))
        own = (n for n in read if isinstance(n, Node) and len(n.shape) == 2 and n.shape[0] == self.samples)
        return [n for n in dict.fromkeys(own) if n.shape[1] >= FEWEST]

    @cached_property
    def before(self) -> list[Tensor]:
        """The outputs as they were."""
        outputs = self.run(self.outputs)
        after = torch.get_rng_state()
        torch.manual_seed(0)
        self.draws = not torch.equal(after, torch.get_rng_state())
        return outputs

    @cached_property
    def _norms(self) -> dict[Node, Callable[..., Tensor]]:
        return {n: _OfWholeBatch() for n in self.step.calls("batch_norm") if n.target is functional.batch_norm}

    def run(self, ends: Sequence[Node], changes: Mapping[Node, Change] | None = None) -> list[Tensor]:
        """The results of some nodes, where those of others change."""
        torch.manual_seed(0)
        edits = {node: _changed(node, change) for node, change in (changes or {}).items()}
        return Replay(self.values).results(self.step, ends, {**self._norms, **edits})


class _OfWholeBatch:
    """Batch normalisation by the statistics of its first call."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, x: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
        momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if training or mean is None:
            dims = [0, *range(2, x.dim())]
            self._known = self._known or (x.mean(dims), x.var(dims, correction=0))
            mean, var = self._known
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _changed(node: Node, change: Change) -> Callable[..., Any]:
    """What takes the place of a node in a replay: its result, changed."""
    return change if not node.function else lambda *args, **kwargs: change(node.target(*args, **kwargs))


def _differ(one: Tensor, other: Tensor, tolerated: float) -> bool:
    """Whether outputs differ by more than rounding; those that are not finite tell nothing."""
    return one.numel() > 0 and bool((one - other).abs().max() > tolerated * one.abs().max())


def _rolled(x: Tensor) -> Tensor:
    """The numbers of the sample before."""
    return x.roll(1, 0)


# Samples.


def _mixed(again: _Again) -> bool | None:
    """Whether a sample's output depends on the other samples or on its place among them; None if it is unknown."""
    if _is_graph(again):
        return None
    last = again.samples - 1

    def with_one_other(x: Tensor) -> Tensor:
        return torch.cat([x[:1].expand(last, *x.shape[1:]), x[last:]])

    others = again.run(again.outputs, dict.fromkeys(again.read, with_one_other))
    if any(_depends(a, b, again.samples) for a, b in zip(again.before, others, strict=True)):
        return True
    if again.draws:
        return False
    rolled = again.run(again.outputs, dict.fromkeys(again.read, _rolled))
    return any(
        all(_differ(first, second, MIXED) for first, second in zip(_by_sample(a, again.samples), moved, strict=True))
        for a, b in zip(again.before, rolled, strict=True)
        if (moved := [x.roll(-1, 0) for x in _by_sample(b, again.samples)])
    )


def _depends(before: Tensor, after: Tensor, samples: int) -> bool:
    """Whether the output of the last sample has changed, in whichever order the rows of a sample stand."""
    pairs = zip(_by_sample(before, samples), _by_sample(after, samples), strict=True)
    return all(_differ(one[-1], other[-1], MIXED) for one, other in pairs)


def _by_sample(outputs: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Outputs [samples, rows, ...]: if all of a sample stand together, and if each view has those of all samples."""
    shape = outputs.shape[1:]
    return outputs.reshape(samples, -1, *shape), outputs.reshape(-1, samples, *shape).transpose(0, 1)


def _is_graph(again: _Again) -> bool:
    """Whether samples are the nodes of a graph: something has all pairs of them, or the numbers of neighbours."""
    needed = [n for n in again.step.needed(again.outputs) if n.op in ("input", "constant", "buffer")]
    whole = (
        n.value for n in needed if n.value is not None and n not in again.given and not n.value.is_floating_point()
    )
    links = (x for x in whole if x.numel() > 1 and x.dtype != torch.bool)
    pairs = any(n.shape.count(again.samples) > 1 for n in needed)
    return pairs or any(again.samples / 2 <= int(x.max()) < again.samples and int(x.min()) >= 0 for x in links)


def _positions(again: _Again) -> bool | None:
    """Whether the output at the first or the last position depends on others; None without positions."""
    own = (n for n in again.read if len(n.shape) > 1 and n.shape[1] >= FEWEST)
    sequences = next((n for n in own if n.dtype is not None and len(n.shape) == 2 + n.dtype.is_floating_point), None)
    if sequences is None:
        return None
    length = sequences.shape[1]
    known = [_by_position(x, again.samples, length) for x in again.before]
    if all(x is None for x in known):
        return None
    for seen, part in ((0, slice(1, length)), (length - 1, slice(length - 1))):  # a causal one looks back only
        after = again.run(again.outputs, {sequences: lambda x, part=part: _with_others_in(x, part)})  # type: ignore[misc]
        for one, new in zip(known, after, strict=True):
            other = _by_position(new, again.samples, length)
            if one is not None and other is not None and _differ(one[:, seen], other[:, seen], EQUAL):
                return True
    return False


def _with_others_in(x: Tensor, part: slice) -> Tensor:
    """Sequences of which a part is that of another sample."""
    x = x.clone()
    x[:, part] = x.roll(1, 0)[:, part]
    return x


def _by_position(outputs: Tensor, samples: int, length: int) -> Tensor | None:
    """Outputs as [samples, positions, ...]; None if they have no positions."""
    if len(outputs) == samples * length:
        return outputs.reshape(samples, length, *outputs.shape[1:])
    dim = next((i for i in (1, 2) if outputs.dim() > i and outputs.shape[i] == length), None)
    return None if dim is None or len(outputs) != samples else outputs.movedim(dim, 1)


# Labels that are tokens.


@dataclass(frozen=True, eq=False)
class _Labels:
    """Labels of a cross-entropy, each of which an output at a position is compared with."""

    tokens: Node  # [samples, positions], what an embedding reads
    ids: Tensor  # the same as numbers
    outputs: Node  # [samples, positions, classes]
    places: tuple[Tensor, Tensor]  # sample and position of each label that counts
    wanted: Tensor  # these labels
    ignored: float  # share of all labels
    shift: int | None  # they are the tokens so many positions later; None: they are not
    own: float  # share that are the token at their position

    def share_at(self, padded: Tensor) -> float:
        """The share of the labels that count at padded positions."""
        return float(padded[self.places].float().mean()) if len(self.wanted) else 0.0


def _labels(again: _Again) -> _Labels | None:
    """The labels of the step and the tokens that they are, or else the first tokens; None without any."""
    found = [one for call in again.step.calls("cross_entropy", "nll_loss") for one in _labels_of(again, call)]
    return next((one for one in found if one.shift is not None), next(iter(found), None))


def _labels_of(again: _Again, call: Node) -> Iterator[_Labels]:
    arguments = calls.given(call, "input", "target")
    logits, targets = arguments.get("input"), arguments.get("target")
    if not isinstance(logits, Node) or not isinstance(targets, Node) or len(logits.shape) < 2:
        return
    outputs = logits.through(calls.MOVES)
    for tokens in (n for n in again.tokens if len(outputs.shape) == 3 and n.shape == outputs.shape[:2]):
        samples, length, classes = outputs.shape
        place = torch.arange(samples * length, dtype=torch.float64).reshape(samples, length, 1).expand(-1, -1, classes)
        places, wanted, ids = again.run(
            [logits, targets, tokens],
            {outputs: lambda x, place=place: place.to(x.device)},  # type: ignore[misc]
        )
        if wanted.is_floating_point() or wanted.numel() != places[:, 0].numel():
            continue
        at, wanted = places[:, 0].flatten().long(), wanted.flatten()
        counts = (wanted >= 0) & (wanted != arguments.get("ignore_index", -100))
        places, kept = (at[counts] // length, at[counts] % length), wanted[counts]
        same = [_share_of_later(ids, places, kept, shift) for shift in range(3)]
        shift = next((k for k in (1, 0, 2) if same[k] >= ALIGNED), None)
        yield _Labels(tokens, ids, outputs, places, kept, 1 - float(counts.float().mean()), shift, same[0])


def _share_of_later(ids: Tensor, places: tuple[Tensor, Tensor], wanted: Tensor, shift: int) -> float:
    """The share of labels that are the tokens so many positions later, as far as these are in the sequence."""
    sample, position = places[0], places[1] + shift
    known = position < ids.shape[1]
    equal = ids[sample[known], position[known]] == wanted[known]
    several = len(wanted[known].unique()) > 1 and len(equal) >= FEWEST_LABELS
    return float(equal.float().mean()) if several else 0.0


def _of_labels(again: _Again, labels: _Labels) -> dict[str, Any]:
    """What is wrong with the labels, and with what the outputs know of them."""
    half, length = labels.tokens.shape[1] // 2, labels.tokens.shape[1]
    later = _moves(again, labels, lambda x: _with_others_in(x, slice(half, length)), (slice(None), slice(half)), LEAK)
    found: dict[str, Any] = {"ignored": labels.ignored, "shift": labels.shift}
    if labels.shift is not None:
        found["later"] = later
    elif later:
        found["visible"] = labels.own
    if labels.shift == 0 and later is False and len(labels.wanted):
        place = int(labels.places[1].mode().values)
        here = slice(place, place + 1)
        found["copies"] = bool(_moves(again, labels, lambda x: _with_others_in(x, here), (slice(None), here), EQUAL))
    if labels.shift == 1:
        found["endless"] = _is_endless(labels)
    if labels.shift == 1 and later is False:
        swap = [1, 0, *range(2, length)]
        found["order"] = _moves(again, labels, lambda x: x[:, swap], (slice(None), slice(2, None)), EQUAL)
    return found


def _is_endless(labels: _Labels) -> bool:
    """Whether rows end with one token that is never a label, behind others that differ: texts have no end token."""
    last, run = _ends(labels.ids)
    rows = (run.sum(1) > 1) & ~run.all(1)
    before = labels.ids[rows, run[rows].long().argmax(1) - 1]
    return bool(4 * rows.sum() >= len(rows)) and last not in labels.wanted and len(before.unique()) > 2


def _ends(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The token that most rows end with, and where it stands, up to the end."""
    last = ids[:, -1].mode().values
    return last, (ids == last).flip(1).long().cumprod(1).flip(1).bool()


def _moves(again: _Again, labels: _Labels, change: Change, seen: Any, tolerated: float) -> bool | None:
    """Whether outputs at some places change with the tokens; None if no token changes."""
    if torch.equal(change(labels.ids), labels.ids):
        return None
    (before,), (after,) = again.run([labels.outputs]), again.run([labels.outputs], {labels.tokens: change})
    return _differ(before[seen], after[seen], tolerated)


# Padding and documents.


def _of_tokens(again: _Again, tokens: Node, labels: _Labels | None) -> dict[str, Any]:
    """What padding and other documents matter to the outputs of a token."""
    tokens = tokens if labels is None else labels.tokens
    (ids,) = again.run([tokens])
    padded, documents, found = _padded(again, ids), _documents(again, ids), dict[str, Any]()
    if padded is not None:
        other = ids[~padded][0]
        found["padding"] = _reaches(again, tokens, lambda x: torch.where(padded, other, x), ~padded)
        if labels is not None:
            found["padded_labels"] = labels.share_at(padded)
    if documents is not None:
        first = documents == documents[:, :1]
        found["documents"] = _reaches(again, tokens, lambda x: torch.where(first, x.roll(1, 0), x), ~first)
    return found


def _reaches(again: _Again, tokens: Node, change: Change, seen: Tensor) -> bool:
    """Whether outputs at some places change with tokens at others; outputs of whole samples are seen, too."""
    after = again.run(again.outputs, {tokens: change})
    for one, other in zip(again.before, after, strict=True):
        places = [_by_position(x, *seen.shape) for x in (one, other)]
        if places[0] is not None and places[1] is not None:
            one, other = places[0][seen], places[1][seen]
        if _differ(one, other, LEAK):
            return True
    return False


def _padded(again: _Again, ids: Tensor) -> Tensor | None:
    """Which tokens are padding: hidden by a mask, or one token at the ends only; None without any."""
    same = (n.value for n in again.given if n.shape == ids.shape and n.value is not None)
    masks = [m.bool() for m in same if m.unique().tolist() in ([0, 1], [False, True])]
    last, ends = _ends(ids)
    lengths, elsewhere = ends.sum(1), ((ids == last) & ~ends)[:, 1:].any()  # a text may begin with it
    long = int(lengths.max()) > (1 if len(lengths.unique()) > 1 else 2)
    found = [m for mask in masks for m in (~mask, mask)] + ([ends] if long and not elsewhere else [])
    for padded in found:
        if len(ids[padded].unique()) == 1 < len(ids[~padded].unique()) and float(padded.float().mean()) > FEWEST_PADDED:
            return padded
    return None


def _documents(again: _Again, ids: Tensor) -> Tensor | None:
    """The number of the document of each token, by their positions, which begin anew; None if rows are not packed."""
    for node in again.given:
        value = node.value
        if value is None or value.shape != ids.shape or value.is_floating_point() or value.dtype == torch.bool:
            continue
        steps = value.diff(dim=1)
        if bool(((steps == 1) | (value[:, 1:] == 0)).all()) and bool((value[:, 0] == 0).all()) and int(value.max()) > 1:
            starts = (value == 0).long().cumsum(1)
            return starts if int(starts.max()) > 1 else None
    return None


# Effects.


def _effects(again: _Again) -> Iterator[Effect]:
    """What the loss becomes if one input, or the targets, are those of other samples."""
    losses = again.step.losses
    before = sum(float(x.sum()) for x in again.run(losses))
    read = set(again.read)
    targets = [n for n in again.given if n not in read and n in set(again.step.needed(losses))]
    several = [node for node in again.given if _varies(node)]
    for nodes in [*([node] for node in several if node in read), [node for node in several if node in targets]]:
        if not nodes or len(several) < 2:
            continue
        after = sum(float(x.sum()) for x in again.run(losses, dict.fromkeys(nodes, _rolled)))
        outputs = again.run(again.outputs, dict.fromkeys(nodes, _rolled))
        moved = any(_differ(a, b, 0.0) for a, b in zip(again.before, outputs, strict=True))
        first = next(user for user in nodes[0].users)
        yield Effect(nodes[0].shape, first.function, first.module, nodes[0] in targets, moved, before, after)


def _varies(node: Node) -> bool:
    """Whether samples differ, and the numbers are no mask."""
    value = node.value
    if value is None or value.dtype == torch.bool:
        return False
    mask = not value.is_floating_point() and value.dim() > 1 and set(value.unique().tolist()) <= {0, 1}
    return not mask and bool((value != value[:1]).any())


# Without running it again.


def _unused(step: Step) -> Iterator[str]:
    """Calls of the model whose result, one number with a gradient, nothing reads and the loss does not take."""
    needed = set(step.needed())
    for node in step.calls():
        if (
            node.module is not None
            and node.requires_grad
            and node.shape == ()
            and not node.users
            and node not in needed
        ):
            yield f"{node.function} in {node.module}" if node.module else node.function


def _predicted(step: Step) -> str | None:
    """The function that compares outputs with targets that have a gradient, too; "" of none.

    Of a regression, the weights of the one are those of the other and at least one more, as of a prediction, or others
    of the same shapes, as of a teacher.
    """
    for node in step.calls("cross_entropy", "mse_loss", "cosine_similarity", "smooth_l1_loss", "l1_loss"):
        pair = [read for read in node.reads if read.requires_grad][:2]
        if node.module is not None or len(pair) < 2:
            continue
        own = [{n for n in step.needed([read]) if n.op == "parameter"} for read in pair]
        shapes = [sorted(n.shape for n in weights) for weights in own]
        apart = not own[0] & own[1] and shapes[0] == shapes[1]
        if node.function == "cross_entropy" or (own[0] and own[1] and (own[0] < own[1] or own[1] < own[0] or apart)):
            return node.function
    return None
