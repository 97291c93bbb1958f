"""The gradient vanishes or explodes through time."""

import itertools
import math
from collections.abc import Iterator, Sequence

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found
from unstuck.rules.standstill import learned
from unstuck.wording import named, number, same_in

FORGOTTEN_SHARE = 1.2e-7
"""The rounding of float32."""
EXPLODED_GROWTH, BURST_GROWTH = 1e4, 1e8
FEW_STEPS = 5
"""In so few steps, one of them may make most of the growth."""
CALLS_IN_A_ROW = 8
"""A layer that reads its own output this often in a row is a recurrent layer written by hand."""

REMEMBER = (
    "Start the bias of an LSTM's forget gate at 1 or more, use orthogonal recurrent weights or shorter sequences, or "
    "let the loss read every step."
)
KEEP_GRAPH = "Hand the state on without detach(), .data or torch.tensor(); detach it between batches only."
SHRINK = "Use orthogonal or smaller recurrent weights, or a layer with gates (nn.GRU, nn.LSTM), and clip the gradient."


def vanishing(evidence: Evidence) -> Found | None:
    """The inputs of the first steps have no influence on the weights: the layer cannot learn long dependences."""
    shares = ((_remembered(steps), name) for name, steps in _recurrent(evidence))
    found = sorted((share, name) for share, name in shares if share < FORGOTTEN_SHARE)
    if not found:
        return _cut(evidence)
    value, names = found[0][0], tuple(name for _, name in found)
    text = _(
        "Only {share} of the gradient through time in {name} reaches the first steps: it cannot learn from them.",
        share=number(value), name=named(names[0]),
    )  # fmt: skip
    return Found(
        names, value, FORGOTTEN_SHARE, text + same_in(names), severity=Severity.NOTE if learned(evidence) else None
    )


def _cut(evidence: Evidence) -> Found | None:
    """A cell whose state loses its graph between the steps."""
    calls: dict[tuple[str, ...], list[int]] = {}
    for i, layer in enumerate(evidence.layers):
        if layer.plain_kind.endswith("cell"):
            calls.setdefault(layer.weights, []).append(i)
    for first, *middle, last in (places for places in calls.values() if len(places) >= CALLS_IN_A_ROW):
        if evidence.live[last] and not any(evidence.layers[i].gradient for i in (first, *middle)):
            name, count = evidence.layers[first].name, len(middle) + 2
            text = _(
                "Only the last of {count} calls of {name} has a gradient: its state is cut between the steps.",
                count=count, name=named(name),
            )  # fmt: skip
            severity = Severity.NOTE if learned(evidence) else None
            return Found((name,), 0.0, FORGOTTEN_SHARE, text, KEEP_GRAPH, severity)
    return None


def exploding(evidence: Evidence) -> Found | None:
    """A long sequence sets the whole step, and clipping it discards the other samples."""
    grown = ((growth, name) for name, steps in _recurrent(evidence) if (growth := _growth(steps)) > EXPLODED_GROWTH)
    found = sorted(grown, reverse=True)
    if not found:
        return None
    value, names = found[0][0], tuple(name for _, name in found)
    text = _(
        "The gradient through time in {name} grows {times} times from the last step to the first: long sequences "
        "decide the whole update.",
        name=named(names[0]), times=number(value),
    )  # fmt: skip
    severity = Severity.ERROR if value > BURST_GROWTH else Severity.WARNING
    return Found(names, value, EXPLODED_GROWTH, text + same_in(names), severity=severity)


def _recurrent(evidence: Evidence) -> Iterator[tuple[str, Sequence[float]]]:
    """Name and gradient sizes, first step to last, of all recurrent layers."""
    for layer in evidence.layers:
        if layer.steps is not None and len(layer.steps) > 1 and all(map(math.isfinite, layer.steps)):
            yield layer.name, layer.steps
    calls: dict[tuple[str, ...], list[int]] = {}
    for i, layer in enumerate(evidence.layers):
        if evidence.live[i] and layer.weights and layer.steps is None:
            calls.setdefault(layer.weights, []).append(i)
    for places in calls.values():
        if len(places) >= CALLS_IN_A_ROW and _in_a_row(evidence, places):
            yield evidence.layers[places[0]].name, [evidence.gradient(i) for i in places]


def _in_a_row(evidence: Evidence, places: Sequence[int]) -> bool:
    """Whether each call depends on the output of the call before."""
    calls, behind = set(places), [-1] * len(evidence.layers)  # for each layer: how many calls come before it
    for i in range(places[0], places[-1] + 1):
        behind[i] = max((behind[source] for source in evidence.layers[i].sources), default=-1) + (i in calls)
    return all(behind[b] == behind[a] + 1 for a, b in itertools.pairwise(places))


def _remembered(steps: Sequence[float]) -> float:
    """Largest gradient in the first tenth of the steps over the largest of all; 1 without a gradient there."""
    early, largest = max(steps[: max(1, len(steps) // 10)]), max(steps)
    if largest == 0:
        return 1.0
    if early == 0 and next(step for step in steps if step > 0) > 1e-3 * largest:
        return 1.0  # the gradient ends at once: the sequence was cut, or these steps are padding
    return early / largest


def _growth(steps: Sequence[float]) -> float:
    """Largest gradient over the largest in the last tenth of the steps with one; 1 without any, or after a jump."""
    if max(steps) == 0:
        return 1.0
    end = max(t for t, step in enumerate(steps) if step > 0) + 1
    growth = max(steps) / max(steps[end - max(1, end // 10) : end])
    known = [step for step in steps[:end] if step > 0]
    jump = max((before / after for before, after in itertools.pairwise(known)), default=1.0)
    return 1.0 if len(known) > FEW_STEPS and jump > math.sqrt(growth) else growth
