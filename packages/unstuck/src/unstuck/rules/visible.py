"""Targets that are visible: the network is shown what it should predict."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import EQUAL, FEWEST, LEAK, Again, by_position, differ, kinds, with_others_in
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.rules.tokens import Tokens, tokens
from unstuck.step import Node
from unstuck.wording import percent

VISIBLE = 0.5
HIDDEN, FEW = 0.05, 0.01
"""Share of an input that the model is not shown, at least; share of what the loss counts."""

MASK = "Give the attention a causal mask (`is_causal=True`); a choice among all tokens (top-k) sees later ones, too."
PAD_LEFT = "Pad convolutions over time at the left only, and give attentions a causal mask."
SHIFT = "Let the target at each position be the next token: `inputs[:, :-1]` and `inputs[:, 1:]`."
DENOISE = "Let the target be the noise, the clean sample, or the velocity."
MASKED_ONLY = "Set the labels of tokens that are not masked to -100."
INVERT_MASK = "Invert the mask of the loss: let it count the hidden patches or tokens."
SEPARATE_DOCUMENTS = "Give the attention a mask of blocks, one for each document, or their lengths."


@rule("US606", "targets are visible", severity=Severity.ERROR, remedy=MASK, hidden_by=("US506",), mistake=True)
def visible_targets(evidence: Evidence) -> Found | None:
    """The network copies what it should predict: the loss falls to 0, and the generated text is useless."""
    found = evidence.ask(tokens) or Tokens()
    if found.shift == 1 and found.later:
        text = _(
            "The targets are the next tokens of the inputs, and outputs depend on later tokens: the model sees what it "
            "has to predict."
        )
        return shown(text)
    if evidence.ask(foreseen):
        text = _(
            "The targets are the next numbers of the inputs, and outputs depend on later ones: the model sees them."
        )
        return shown(text, PAD_LEFT)
    if found.copies:
        text = _(
            "The targets are the tokens of the inputs at the same positions, and outputs depend on earlier tokens "
            "only: the model copies its input."
        )
        return shown(text, SHIFT)
    if evidence.ask(own_input):
        text = _("The targets are the very numbers that the model reads beside a time: it copies its input.")
        return shown(text, DENOISE)
    if found.visible > VISIBLE:
        text = _(
            "{share} % of the labels are the tokens at the same positions, which the model sees.",
            share=percent(found.visible),
        )
        return Found((), found.visible, VISIBLE, text, MASKED_ONLY, Severity.WARNING, shown=True)
    if (evidence.ask(reconstruction) or Reconstruction()).seen_only:
        text = _("The loss counts only what the model is shown of its input, and never what is hidden from it.")
        return shown(text, INVERT_MASK, Severity.WARNING)
    if found.documents:
        return shown(_("Outputs depend on other documents of the same row."), SEPARATE_DOCUMENTS, Severity.WARNING)
    return None


@dataclass(frozen=True)
class Reconstruction:
    """What a loss tells that compares outputs with numbers, such as hidden parts of the inputs."""

    seen_only: bool = False  # it counts only what the model is shown of its input, and hidden parts of it never
    alike: bool = False  # outputs are the same at all places of a sample that count, and the targets are not


@question
def foreseen(again: Again) -> bool:
    """Whether outputs depend on later numbers of a series, [samples, time, ...], whose next numbers are the targets."""
    targets = [n for n in again.given if n.floating and n not in again.read]
    series = next((x for x in again.read if any(_are_next(x, y) for y in targets)), None)
    if series is None or any(series.shape[1] in call.reads[1].shape for call in again.step.calls("linear")):
        return False  # a layer reads all at once: they are coordinates of one state
    length = series.shape[1]
    early, late = slice(length // 2), slice(length // 2, length)
    after = again.run(again.outputs, {series: lambda x: with_others_in(x, late)})
    for results in zip(again.before, after, again.gradients(again.outputs), strict=True):
        one, other, gradient = (None if x is None else by_position(x, again.samples, length) for x in results)
        counts = one is not None and gradient is not None and bool(gradient[:, early].any())  # for the loss
        if counts and one is not None and other is not None and differ(one[:, early], other[:, early], LEAK):
            return True
    return False


def _are_next(series: Node, target: Node) -> bool:
    """Whether a target has the numbers of a series that changes, one step later."""
    x, y = series.value, target.value
    if x is None or y is None or x.shape != y.shape or x.dim() < 2 or x.shape[1] <= 2 * FEWEST:
        return False
    return torch.equal(x[:, 1:], y[:, :-1]) and not torch.equal(x[:, 1:], x[:, :-1])


@question
def reconstruction(again: Again) -> Reconstruction | None:
    """What the first comparison of outputs with numbers counts."""
    for node in again.step.needed() if again.outputs else ():
        output, target = node.reads[:2] if node.function in calls.COMPARISONS and len(node.reads) > 1 else (node, node)
        if target.requires_grad:
            output, target = target, output
        if node.module or output.shape != target.shape or not output.requires_grad or target.requires_grad:
            continue
        (gradient,) = again.gradients([output])
        if gradient is not None:
            counts = gradient != 0
            seen_only = any(_is_shown(again, counts, target, read) for read in again.read)
            return Reconstruction(seen_only, again.trained and _are_alike(again, counts, output, target))
    return None


def _is_shown(again: Again, counts: Tensor, target: Node, read: Node) -> bool:
    """Whether all that the loss counts of a target is what the model was shown of the same input."""
    same = [n for n in again.step.needed([target]) if _is_copy(n, read)]
    several = read.floating and len(read.shape) > 2
    reached = again.gradients([read], again.outputs)[0] if same and several else None
    if reached is None:
        return False
    hidden, (x,) = reached == 0, again.run([read])
    padding = len(x[hidden]) == 0 or bool((x[hidden] == x[hidden][0]).all())
    if padding or float(hidden.float().mean()) < HIDDEN or bool((hidden == hidden[:1]).all()):
        return False
    (before,), (shown,), (other,) = (
        again.run([target], dict.fromkeys(same, lambda x, part=part: x + part))  # type: ignore[misc]
        for part in (torch.zeros_like(x), ~hidden, hidden)
    )
    unseen = (other != before) & counts
    return bool((shown != before).any()) and float(unseen.sum()) <= FEW * float(counts.sum())


def _is_copy(node: Node, read: Node) -> bool:
    """Whether a node is an input, or has the same numbers."""
    one, other = node.value, read.value
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)


def _are_alike(again: Again, counts: Tensor, output: Node, target: Node) -> bool:
    """Whether outputs at the places that count are the same within each sample, and the targets are not."""
    counted = counts.any(-1)
    if len(output.shape) != 3 or output.shape[0] != again.samples or not (counted.sum(1) >= FEWEST).any():
        return False
    rows = counted.sum(1) >= FEWEST
    outputs, targets = (x[rows] for x in again.run([output, target]))
    places = list(zip(outputs, targets, counted[rows], strict=True))
    alike = all(not _vary(x[c]) and _vary(t[c]) for x, t, c in places)
    return alike and differ(outputs, outputs.roll(1, 0), EQUAL)


def _vary(x: Tensor) -> bool:
    return differ(x, x[:1], EQUAL)


@question
def own_input(again: Again) -> bool:
    """Whether a denoiser, which reads a time for each sample, is asked for the very numbers that it reads."""
    numbers = _numbers(again)
    if not any(n.value is not None and len(kinds(n.value)) > 2 for n in numbers):
        return False
    regressions, others = again.step.of_loss(*calls.REGRESSION_LOSSES), set(_inputs(again)).difference(numbers)
    compared = [node.through(calls.KEEP_PLACES).value for call in regressions for node in call.reads[:2]]
    pairs = ((one, x.value) for one in compared for x in others)
    return any(one is not None and other is not None and torch.equal(one, other) for one, other in pairs)


def _numbers(again: Again) -> list[Node]:
    """The model's inputs that have one number for each sample, such as a time."""
    return [n for n in _inputs(again) if n.floating and math.prod(n.shape[1:]) == 1]


def _inputs(again: Again) -> list[Node]:
    """What the model reads for each sample."""
    return [n for n in again.given if n.value is not None and any(user.module is not None for user in n.users)]
