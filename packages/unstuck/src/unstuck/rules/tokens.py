"""Tokens: whether their labels are where they belong, and what padding, places and other documents do to outputs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import EQUAL, LEAK, Again, Change, by_position, differ, kinds, with_others_in
from unstuck.rules.evidence import Evidence
from unstuck.rules.gradient import memories
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.step import Node
from unstuck.wording import percent

PADDED_LABELS = 0.02
FEWEST_LABELS, FEWEST_ALIKE, FEWEST_WORDS, ALIGNED = 8, 32, 3, 0.99
"""Labels; labels that are all one token; different words; share of labels that are tokens at the same distance."""
SHIFTS = (1, 0, 2)
"""Positions by which labels may be later, in the order in which they are looked for."""
MOST_ROWS, NEAR = 2048, 0.05
"""Rows of an embedding that are compared, and the distance of two of them over the median of all."""
SCATTERED = 1.2
"""Runs of labels that count, in a row."""
FEWEST_PADDED, REPEATS = 0.02, 0.25
"""Share of the tokens that are padding; of the other rows that end with a token twice, if there are more."""


SHIFT_ONCE = (
    "Shift the labels once: models of Transformers shift them in their loss, and take labels that equal the inputs."
)
START = (
    "Give T5 and its like `labels` only, which they shift themselves, or begin `decoder_input_ids` with "
    "`decoder_start_token_id`."
)
KEEP_LABELS = "Check what sets the labels to -100, and the length at which samples are cut off."
KEEP_END = (
    "Ignore the padding only behind the first end token, or use another token for padding; nothing to do if the texts "
    "have no end."
)
IGNORE_PADDING = "Ignore the padding in the loss: `labels[attention_mask == 0] = -100`, or `ignore_index`."
MASK_PADDING = "Give the model the attention mask, and let it use it; causal models want the padding at the right."
COUNT_PLACES = (
    "Give the model `position_ids` that begin with 0 in each text: `(attention_mask.cumsum(1) - 1).clamp(min=0)` "
    "behind padding at the left, or one `arange` for each packed sample."
)


@rule("US701", "labels at the wrong place", severity=Severity.ERROR, remedy=SHIFT_ONCE, mistake=True)
def misplaced_labels(evidence: Evidence) -> Found | None:
    """The network learns to predict another token than it is asked for, or nothing."""
    found = evidence.ask(tokens) or Tokens()
    if found.ignored == 1:
        return shown(_("Every label is ignored: the loss is computed from nothing."), KEEP_LABELS)
    if found.shift == 2:
        return shown(_("The labels are the tokens after the next ones: they were shifted twice."))
    if found.unstarted:
        text = _(
            "The decoder begins with the first word of the target, and no label is that word: it does not learn to "
            "start."
        )
        return shown(text, START, Severity.WARNING)
    if found.single:
        text = _("All labels that count are the same token, and the others are ignored.")
        return shown(text, KEEP_LABELS, Severity.WARNING)
    if found.endless:
        text = _("The token that the rows end with is never a label: the model does not learn to stop.")
        return shown(text, KEEP_END, Severity.WARNING)
    return None


@rule("US702", "padding counts", remedy=MASK_PADDING, hidden_by=("US401",), mistake=True)
def padding(evidence: Evidence) -> Found | None:
    """Padding is in the loss, or changes the outputs of a sample with the length of the others."""
    found = evidence.ask(tokens) or Tokens()
    if found.padded_labels > PADDED_LABELS:
        text = _("{share} % of the labels that count belong to padding.", share=percent(found.padded_labels))
        return shown(text, IGNORE_PADDING, value=found.padded_labels)
    if found.padding:
        text = _("Outputs of the tokens of a sample depend on its padding.")
        recurrent = evidence.ask(memories)  # which reads it at the end
        return shown(text, MASK_PADDING, Severity.NOTE if recurrent else None)
    return None


@rule("US707", "positions run on", remedy=COUNT_PLACES, mistake=True)
def positions_run_on(evidence: Evidence) -> Found | None:
    """A text begins at another place in the training than in use: its position embeddings are those of other places."""
    if not (evidence.ask(tokens) or Tokens()).run_on:
        return None
    return shown(_("Texts begin in the middle of a row, and their positions count what stands before them."))


@dataclass(frozen=True)
class Tokens:
    """What labels, padding and other documents matter to the outputs of tokens."""

    shift: int | None = None  # the labels are the tokens of the input this many positions later, from 0 to 2
    later: bool = False  # the output at a position depends on later ones; looked at only with a `shift`
    copies: bool = False  # the loss compares the output at a position with the token there, on which it depends
    ignored: float = 0.0  # share of the labels
    visible: float = 0.0  # share of the labels that are the tokens at their positions, which the model sees
    endless: bool = False  # rows end with one token that is never a label, behind others that differ
    unstarted: bool = False  # the inputs of a decoder begin with words that are no labels there
    single: bool = False  # all labels that count are one token, and others are ignored
    padded_labels: float = 0.0  # share of the labels that count and are of a padded position
    padding: bool = False  # outputs depend on padded tokens
    run_on: bool = False  # padding at the left moves the places of the tokens
    first_only: bool = False  # the output for a sample depends on its first token only
    documents: bool = False  # outputs depend on other documents of a packed row
    new_rows: tuple[int, ...] = ()  # tokens of the batch whose rows of a frozen embedding are nearly equal


@question
def tokens(again: Again) -> Tokens | None:
    """What labels, padding and other documents matter."""
    if not again.tokens or not again.outputs:
        return None
    labels = _labels(again)
    read = again.tokens[0] if labels is None else labels.tokens
    (ids,) = again.run([read])
    padded, documents = _padded(again, ids), _documents(again, ids)
    found: dict[str, Any] = {"new_rows": _new_rows(again, read, ids), "first_only": _reads_first_only(again, read)}
    found |= {} if labels is None else _of_labels(again, labels)
    if padded is not None:
        own = [n for n in again.step.calls("embedding") if calls.given(n, "input").get("input") is read]
        place = [int(i) for i in (~padded).nonzero()[0]]  # of a token whose embedding takes that of the padding
        change = {n: lambda x: torch.where(padded[..., None], x[place[0], place[1]], x) for n in own}
        found["padding"] = _reaches(again, change, ~padded)
        if labels is not None:
            found["padded_labels"] = float(padded[labels.places].float().mean()) if len(labels.wanted) else 0.0
    found["run_on"] = _run_on(again, _starts(again, ids, padded))
    if documents is not None:
        first = documents == documents[:, :1]
        found["documents"] = _reaches(again, {read: lambda x: torch.where(first, x.roll(1, 0), x)}, ~first)
    return Tokens(**found)


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

    @property
    def scattered(self) -> bool:
        """Whether most rows have labels that are ignored between those that count, as where words are masked."""
        return bool((self.counted.to(torch.int8).diff(dim=1) == 1).sum(1).float().mean() > SCATTERED)

    @property
    def counted(self) -> Tensor:
        """Which outputs have a label that counts, [samples, positions]."""
        counts = torch.zeros(self.ids.shape, dtype=torch.bool)
        counts[self.places[0].cpu(), self.places[1].cpu()] = True
        return counts


def _labels(again: Again) -> _Labels | None:
    """The labels of the step and the tokens that they are, next tokens before others; None without any."""
    found = [one for call in again.step.calls("cross_entropy", "nll_loss") for one in _labels_of(again, call)]
    found += [one for call in again.step.calls("gather") for one in _gathered(again, call)]
    return next((one for shift in (*SHIFTS, None) for one in found if one.shift == shift), None)


def _labels_of(again: Again, call: Node) -> Iterator[_Labels]:
    arguments = calls.given(call, "input", "target")
    logits, targets = arguments.get("input"), arguments.get("target")
    if not isinstance(logits, Node) or not isinstance(targets, Node) or len(logits.shape) < 2:
        return
    outputs = logits.through(calls.MOVES)
    for tokens in (n for n in again.tokens if len(outputs.shape) == 3 and n.shape == outputs.shape[:2]):
        places, wanted, ids = again.run(
            [logits, targets, tokens], {outputs: lambda x: _place_of_each(outputs).to(x.device)}
        )
        if wanted.is_floating_point() or wanted.numel() != places[:, 0].numel():
            continue
        wanted = wanted.flatten()
        counts = (wanted >= 0) & (wanted != arguments.get("ignore_index", -100))
        yield _placed(tokens, ids, outputs, places[:, 0].flatten().long(), wanted, counts)


def _gathered(again: Again, call: Node) -> Iterator[_Labels]:
    """Labels whose logarithms of probabilities are gathered by hand, as for DPO, PPO and GRPO; a mask hides some."""
    arguments = calls.given(call, "input", "dim", "index")
    odds, index = arguments.get("input"), arguments.get("index")
    if not (isinstance(odds, Node) and isinstance(index, Node) and call.requires_grad and call.module is None):
        return
    softmax = odds.through(calls.MOVES)
    outputs = softmax.reads[0].through(calls.MOVES) if softmax.function == "log_softmax" else softmax
    for tokens in (n for n in again.tokens if len(outputs.shape) == 3 and n.shape == outputs.shape[:2]):
        places, wanted, ids = again.run(
            [call, index, tokens],
            edits={softmax: lambda x, *_a, **_k: x, outputs: lambda *_a, **_k: _place_of_each(outputs)},
        )
        (gradient,) = again.gradients([call])
        if places.shape == wanted.shape and gradient is not None and gradient.any():
            yield _placed(tokens, ids, outputs, places.flatten().long(), wanted.flatten(), gradient.flatten() != 0)


def _place_of_each(outputs: Node) -> Tensor:
    """The number of its sample and position in the place of each output [samples, positions, classes]."""
    samples, length, classes = outputs.shape
    return torch.arange(samples * length, dtype=torch.float32).reshape(samples, length, 1).repeat(1, 1, classes)


def _placed(tokens: Node, ids: Tensor, outputs: Node, at: Tensor, wanted: Tensor, counts: Tensor) -> _Labels:
    """Labels at places of [samples, positions], of which some count."""
    length = outputs.shape[1]
    own, kept = (at[counts] // length, at[counts] % length), wanted[counts]
    same = [_share_of_later(ids, own, kept, shift) for shift in range(3)]
    shift = next((k for k in SHIFTS if same[k] >= ALIGNED), None)
    one = len(kinds(kept)) == 1 and len(kept) >= FEWEST_LABELS  # the mask itself, where labels are the masked inputs
    seen = float((ids[own] == kept).float().mean()) if one else same[0]
    return _Labels(tokens, ids, outputs, own, kept, 1 - float(counts.float().mean()), shift, seen)


def _share_of_later(ids: Tensor, places: tuple[Tensor, Tensor], wanted: Tensor, shift: int) -> float:
    """The share of labels that are the tokens so many positions later, as far as these are in the sequence."""
    sample, position = places[0], places[1] + shift
    known = position < ids.shape[1]
    equal = ids[sample[known], position[known]] == wanted[known]
    several = len(kinds(wanted[known])) > 1 and len(equal) >= FEWEST_LABELS
    return float(equal.float().mean()) if several else 0.0


def _of_labels(again: Again, labels: _Labels) -> dict[str, Any]:
    """What is wrong with the labels, and with what the outputs know of them."""
    length = labels.tokens.shape[1]
    half = min(int(labels.places[1].median()) + 1 if len(labels.wanted) else length // 2, length - 1)
    seen = labels.counted & (torch.arange(length) < half)  # a prefix without labels may be read in both directions
    later = _moves(again, labels, lambda x: with_others_in(x, slice(half, length)), seen, LEAK)
    found: dict[str, Any] = {"ignored": labels.ignored, "shift": labels.shift}
    found["later"] = bool(later) and labels.shift is not None
    if later and (labels.shift is None or (labels.shift == 0 and labels.scattered)):
        found["visible"] = labels.own
    if labels.shift == 0 and later is False and len(labels.wanted):
        apart = labels.counted & (labels.ids != labels.ids.roll(1, 0)).cpu()  # all texts may begin alike
        place = int(apart.sum(0).argmax())
        here = slice(place, place + 1)
        found["copies"] = bool(_moves(again, labels, lambda x: with_others_in(x, here), (slice(None), here), EQUAL))
    found["single"] = len(kinds(labels.wanted)) == 1 and len(labels.wanted) >= FEWEST_ALIKE and labels.ignored > 0
    if labels.shift == 1:
        read = set(again.step.needed([labels.outputs])) - {labels.tokens}
        encoder = any(_is_text(again, node) for node in again.tokens if node in read)
        found["endless"] = _is_endless(labels, encoder, _hidden(again, labels.ids))
        first = kinds(labels.ids[:, 0])  # words of the texts: no label is the first one of a text
        found["unstarted"] = (
            encoder and len(first) > FEWEST_WORDS and 2 * len(first & kinds(labels.wanted)) > len(first)
        )
    return found


def _is_text(again: Again, node: Node) -> bool:
    """Whether numbers are tokens, and not their places, types or documents."""
    (ids,) = again.run([node])
    return len(kinds(ids)) > FEWEST_WORDS and not bool(((ids.diff(dim=1) == 1) | (ids[:, 1:] == 0)).all())


def _is_endless(labels: _Labels, encoder: bool, hidden: Sequence[Tensor]) -> bool:
    """Whether rows end with one token that is never a label, behind others that differ: texts have no end token.

    The outputs of a decoder that all have one length need no end, nor do texts whose rows end with padding alone.
    """
    last, run = _ends(labels.ids)
    if (encoder and len(kinds(run.sum(1))) == 1) or any(torch.equal(labels.ids == last, x) for x in hidden):
        return False
    rows = (run.sum(1) > 1) & ~run.all(1)
    before = labels.ids[rows, run[rows].long().argmax(1) - 1]
    return bool(4 * rows.sum() >= len(rows)) and last not in labels.wanted and len(kinds(before)) > 2


def _ends(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The token that most rows end with, and where it stands, up to the end."""
    last = ids[:, -1].mode().values
    return last, (ids == last).flip(1).long().cumprod(1).flip(1).bool()


def _reads_first_only(again: Again, tokens: Node) -> bool:
    """Whether the last output, one for each sample, depends on the first token and on no other."""
    last, (samples, length) = again.outputs[-1], tokens.shape
    needed = set(again.step.needed([last]))
    if last.shape[0] != samples or tokens not in needed or not needed.issuperset(again.outputs) or not again.trained:
        return False
    changed = {tokens: lambda x: torch.cat([x[:, length // 2, None], x[:, 1:]], 1)}  # texts may begin alike
    (before,), (first,) = again.run([last]), again.run([last], changed)
    if by_position(before, samples, length) is not None or not differ(before, first, LEAK):
        return False
    (rest,) = again.run([last], {tokens: lambda x: with_others_in(x, slice(1, length))})
    return not differ(before, rest, EQUAL)


def _run_on(again: Again, starts: Tensor) -> bool:
    """Whether an embedding reads places that count on where texts start in the middle of a row."""
    for node in again.step.calls("embedding") if bool(starts.any()) else ():
        read = calls.given(node, "input").get("input")
        if isinstance(read, Node) and read.shape and read.shape[-1] == starts.shape[1]:
            (places,) = again.run([read])
            if bool((places.diff(dim=-1) == 1).all()):
                return bool(places.expand(starts.shape)[starts].min() > 0)
    return False


def _starts(again: Again, ids: Tensor, padded: Tensor | None) -> Tensor:
    """Where texts start in the middle of a row: behind padding, or where a mask of blocks hides all tokens before."""
    starts = torch.zeros(ids.shape, dtype=torch.bool)
    if padded is not None:
        text = (~padded).cpu()
        starts[:, 1:] = text[:, 1:] & (text.long().cumsum(1)[:, :-1] == 0)
    size = ids.shape[1]
    for value in (n.value for n in again.given if n.value is not None and n.shape[-2:] == (size, size)):
        if kinds(value) == {0, 1}:
            visible = value.reshape(len(ids), -1, size, size)[:, 0].cpu().bool()
            alone = ~visible.tril(-1).any(-1) & visible.diagonal(dim1=-2, dim2=-1)
            starts[:, 1:-1] |= alone[:, 1:-1] & ~alone[:, 2:]  # padding sees itself only
    return starts


def _new_rows(again: Again, tokens: Node, ids: Tensor) -> tuple[int, ...]:
    """Tokens whose rows of an embedding are far nearer to each other than others are, and do not train."""
    own = [n for n in again.step.calls("embedding") if calls.given(n, "input").get("input") is tokens]
    weights = [calls.given(n, "input", "weight").get("weight") for n in own]
    frozen = [w for w in weights if isinstance(w, Node) and w.op == "parameter" and not w.requires_grad]
    used = torch.tensor(sorted(kinds(ids)))
    if len(frozen) != 1 or len(weights) != 1 or len(used) > MOST_ROWS or len(used) < FEWEST_LABELS:
        return ()
    rows = again.values[frozen[0].target][used].float()
    apart = torch.cdist(rows, rows).fill_diagonal_(math.inf)
    near = (apart.min(1).values < NEAR * apart[apart.isfinite()].median()).nonzero()[:, 0]
    return tuple(used[near].tolist())


def _moves(again: Again, labels: _Labels, change: Change, seen: Any, tolerated: float) -> bool | None:
    """Whether outputs at some places change with the tokens; None if no token changes."""
    if torch.equal(change(labels.ids), labels.ids):
        return None
    (before,), (after,) = again.run([labels.outputs]), again.run([labels.outputs], {labels.tokens: change})
    return differ(before[seen], after[seen], tolerated)


def _reaches(again: Again, changes: Mapping[Node, Change], seen: Tensor) -> bool:
    """Whether outputs at some places change with what is read at others; outputs of whole samples are seen, too."""
    after = again.run(again.outputs, changes)
    for one, other in zip(again.before, after, strict=True):
        places = [by_position(x, *seen.shape) for x in (one, other)]
        if places[0] is not None and places[1] is not None:
            one, other = places[0][seen], places[1][seen]
        if differ(one, other, LEAK):
            return True
    return False


def _hidden(again: Again, ids: Tensor) -> list[Tensor]:
    """Which tokens each mask may hide: those of its zeros, or of its ones."""
    same = (n.value for n in again.given if n.shape == ids.shape and n.value is not None)
    return [hidden for mask in same if kinds(mask) == {0, 1} for hidden in (~mask.bool(), mask.bool())]


def _padded(again: Again, ids: Tensor) -> Tensor | None:
    """Which tokens are padding: hidden by a mask, or one token at the ends only; None without any."""
    last, ends = _ends(ids)
    lengths, elsewhere = ends.sum(1), ((ids == last) & ~ends)[:, 1:].any()  # a text may begin with it
    long = int(lengths.max()) > (1 if len(kinds(lengths)) > 1 else 2)
    repeats = (ids[:, -1] == ids[:, -2])[lengths == 0].float().mean() > REPEATS  # as answers of a policy may do
    found = _hidden(again, ids) + ([ends] if long and not (repeats or elsewhere) else [])
    for padded in found:
        if len(kinds(ids[padded])) == 1 < len(kinds(ids[~padded])) and float(padded.float().mean()) > FEWEST_PADDED:
            return padded
    return None


def _documents(again: Again, ids: Tensor) -> Tensor | None:
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
