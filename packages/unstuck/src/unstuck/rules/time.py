"""The gradient vanishes through time."""

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
CALLS_IN_A_ROW = 8
"""A layer that reads its own output this often in a row is a recurrent layer written by hand."""

REMEMBER = (
    "Start the bias of an LSTM's forget gate at 1 or more, use orthogonal recurrent weights or shorter sequences, or "
    "let the loss read every step."
)


def vanishing(evidence: Evidence) -> Found | None:
    """The inputs of the first steps have no influence on the weights: the layer cannot learn long dependences."""
    shares = ((_remembered(steps), name) for name, steps in _recurrent(evidence))
    found = sorted((share, name) for share, name in shares if share < FORGOTTEN_SHARE)
    if not found:
        return None
    value, names = found[0][0], tuple(name for _, name in found)
    text = _(
        "Only {share} of the gradient through time in {name} reaches the first steps: it cannot learn from them.",
        share=number(value), name=named(names[0]),
    )  # fmt: skip
    return Found(
        names, value, FORGOTTEN_SHARE, text + same_in(names), severity=Severity.NOTE if learned(evidence) else None
    )


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
