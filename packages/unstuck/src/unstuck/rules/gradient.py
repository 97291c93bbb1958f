"""The gradient vanishes or explodes between the loss and the inputs, or vanishes through time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

import torch
from torch import Tensor

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import Again
from unstuck.rules import units
from unstuck.rules.evidence import Evidence
from unstuck.rules.modes import fewest_rows
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule
from unstuck.step import Node
from unstuck.step.node import numbered
from unstuck.wording import named, number, same_in, verb

SMALL_LEVEL, VANISHED_LEVEL, GONE_LEVEL = 1e-3, 1e-4, 1e-6
"""Levels below which a vanishing gradient is a note, a warning, an error."""
EXPLODED_LEVEL, BURST_LEVEL = 1e3, 1e6
"""Levels above which an exploding gradient is a warning, an error."""
STEEP = 0.1
"""One segment is to blame if its gain is further from the median than this factor."""
FORGOTTEN_SHARE = 1.2e-7
"""The rounding of float32."""

INITIALISE = (
    "Use weights that suit the activation (He for ReLU, orthogonal for tanh), put a normalisation before the "
    "activations, or add skip connections."
)
SHRINK = (
    "Use smaller weights (He for ReLU, orthogonal for tanh), put a normalisation before the activations, or scale "
    "residual branches down; clipping hides the cause."
)
REMEMBER = (
    "Start the bias of an LSTM's forget gate at 1 or more, use orthogonal recurrent weights or shorter sequences, or "
    "let the loss read every step."
)


@rule(
    "US101",
    "vanishing gradient",
    remedy=INITIALISE,
    hidden_by=("US307", "US401", "US503", "US705"),
    signal=True,
    stalls=True,
)
def vanishing(evidence: Evidence) -> Found | None:
    """Layers near the inputs get almost no gradient: they stay as they were initialised."""
    if not fades(evidence):
        return None
    best, own = evidence.best_level, evidence.upper_level
    worst = sorted(lost(evidence), key=lambda i: own[i])
    # A branch beside a skip connection may have less than what reaches the inputs.
    first = next((i for i in worst if own[i] >= STEEP * best[i]), worst[0])
    share = own[first] / evidence.scales[first]
    place, names = _place(evidence, worst, shrinks=True)
    text = _(
        "Only {share} of the gradient reaches {names}: {verb} almost nothing.",
        share=number(own[first]), names=evidence.listed(names), verb=verb(names, "it learns", "they learn"),
    )  # fmt: skip
    severity = Severity.NOTE if share >= VANISHED_LEVEL else Severity.WARNING if share >= GONE_LEVEL else Severity.ERROR
    return Found(names, own[first], SMALL_LEVEL, text + place, severity=severity)


@rule("US102", "exploding gradient", remedy=SHRINK, hidden_by=("US401", "US503"), signal=True)
def exploding(evidence: Evidence) -> Found | None:
    """A step that suits the last layers is far too large for the first: training diverges or hardly moves."""
    risen = evidence.from_inputs_on(lambda i: evidence.lower_level[i] > EXPLODED_LEVEL)
    if evidence.latest.differentiated or not risen:
        return None
    worst = sorted(risen, key=lambda i: -evidence.lower_level[i])
    level = evidence.lower_level[worst[0]]
    place, names = _place(evidence, worst, shrinks=False)
    text = _(
        "The gradient at {names} is up to {times} times larger than at the last layers: a step that suits those is too "
        "large here.",
        names=evidence.listed(names), times=number(level),
    )  # fmt: skip
    few = 0 < (evidence.ask(fewest_rows) or 0) < units.FEWEST_ROWS
    severity = Severity.ERROR if level > BURST_LEVEL else Severity.NOTE if few else Severity.WARNING
    return Found(names, level, EXPLODED_LEVEL, text + place, severity=severity)


def _gain(evidence: Evidence, i: int) -> float | None:
    """The gradient of a layer over the largest of the next layers; None for a last layer."""
    after = max((evidence.gradient(c) for c in evidence.next_live(i)), default=0.0)
    return evidence.gradient(i) / after if after > 0 else None


def lost(evidence: Evidence) -> tuple[int, ...]:
    """Layers with a vanished gradient that saturated and dead neurons do not explain, in order."""
    left, scales, level = units.gradient_left(evidence), evidence.scales, evidence.upper_level
    fallen = evidence.from_inputs_on(lambda i: level[i] < SMALL_LEVEL * scales[i])
    return tuple(i for i in fallen if level[i] < SMALL_LEVEL * left[i] * scales[i] and not _only_scores(evidence, i))


def _only_scores(evidence: Evidence, i: int) -> bool:
    """Whether only attentions read a layer, and each has values beside it with a sound gradient."""
    readers = evidence.consumers[i] if evidence.gradient(i) > 0 else ()
    for reader in readers:
        # The values are read by the attention, or by what reads the softmax.
        beside = {reader, *evidence.consumers[reader]}
        values = {source for layer in beside for source in evidence.layers[layer].sources} - {i}
        sound = any(evidence.upper_level.get(v, 0.0) >= SMALL_LEVEL for v in values)
        if evidence.layers[reader].role != "attention" or not sound:
            return False
    return bool(readers)


def fades(evidence: Evidence) -> bool:
    """Whether the lost gradient shrinks step by step, before it becomes 0."""
    return any(evidence.gradient(i) > 0 for i in lost(evidence))


def _place(evidence: Evidence, layers: Sequence[int], shrinks: bool) -> tuple[str, tuple[str, ...]]:
    """A sentence on where the gradient changes, and the names; the layer before a single bad segment comes first."""
    names = evidence.names(layers)
    gains = [(gain, i) for i in layers if (gain := _gain(evidence, i))]
    if not gains:
        return "", names
    usual = median(gain for gain, _ in gains)
    gain, before = min(gains) if shrinks else max(gains)
    if STEEP < gain / usual < 1 / STEEP:
        return _(" The median gain of a layer is {gain}.", gain=number(usual)), names
    first = evidence.layers[before].name
    following = evidence.layers[max(evidence.next_live(before), key=evidence.gradient)].name
    names = (first, *(name for name in names if name != first))
    values = {"first": named(first), "second": named(following), "gain": number(gain)}
    return _(" The largest change is between {first} and {second} (gain {gain}).", **values), names


@rule("US103", "gradient vanishes through time", remedy=REMEMBER, hidden_by=("US401",), signal=True)
def forgetting(evidence: Evidence) -> Found | None:
    """The inputs of the first steps have no influence on the weights: the layer cannot learn long dependences."""
    found = sorted((m for m in evidence.ask(memories) or () if m.share < FORGOTTEN_SHARE), key=lambda m: m.share)
    if not found:
        return None
    value, names = found[0].share, tuple(evidence.layer_of_call(m.module, "weights", m.number) for m in found)
    text = _(
        "Only {share} of the gradient through time in {name} reaches the first steps: it cannot learn from them.",
        share=number(value), name=named(names[0]),
    )  # fmt: skip
    return Found(names, value, FORGOTTEN_SHARE, text + same_in(names))


@dataclass(frozen=True)
class Memory:
    """How much of the gradient of a recurrent layer reaches its first steps."""

    module: str  # in which it runs
    number: int  # of the call among those there
    share: float


@question
def memories(again: Again) -> tuple[Memory, ...]:
    """How much of the gradient of each recurrent layer reaches the inputs of its first steps."""
    read = dict[Node, tuple[Tensor, Any]]()

    def watched(node: Node) -> Callable[..., Any]:
        def run(x: Tensor, *args: Any) -> Any:
            x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()  # no other layer reads it
            read[node] = x, args[0]
            return node.target(x, *args)

        return run

    layers = list(again.step.calls(*calls.RECURRENT))
    if not layers:
        return ()
    with torch.enable_grad():
        losses = again.run(again.step.losses, edits={node: watched(node) for node in layers})
        total = torch.stack([loss.sum() for loss in losses]).sum()
        inputs = [x for x, _lengths in read.values()]
        gradients: Sequence[Tensor | None] = torch.autograd.grad(total, inputs, allow_unused=True)
    found, numbers = [], numbered(layers)
    for (node, (_x, lengths)), gradient in zip(read.items(), gradients, strict=True):
        sizes = [] if gradient is None else _by_step(node, lengths, gradient)
        if sizes and all(map(isfinite, sizes)):
            found.append(Memory(node.module or "", numbers[node], remembered(sizes)))
    return tuple(found)


def _by_step(node: Node, batch_sizes: Any, gradient: Tensor) -> list[float]:
    """The size of a gradient by time step: [steps, samples, features], the first two exchanged, or packed as rows."""
    squares = gradient.double().square()
    if isinstance(batch_sizes, Tensor) and not batch_sizes.is_floating_point():  # of packed sequences
        steps = torch.split(squares, batch_sizes.tolist())
    else:
        steps = squares.unbind(1 if node.args[-1] is True and squares.dim() == 3 else 0)
    return [float(step.mean().sqrt()) for step in steps]


def remembered(steps: Sequence[float]) -> float:
    """Largest gradient in the first tenth of the steps over the largest of all; 1 without a gradient there."""
    early, largest = max(steps[: max(1, len(steps) // 10)]), max(steps)
    if largest == 0:
        return 1.0
    if early == 0 and next(step for step in steps if step > 0) > 1e-3 * largest:
        return 1.0  # the gradient ends at once: the sequence was cut, or these steps are padding
    return early / largest
