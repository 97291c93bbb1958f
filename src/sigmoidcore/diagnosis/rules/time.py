"""SC103, SC104: the gradient vanishes or explodes through time."""

import math
from collections.abc import Callable, Iterator, Sequence

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.rules.evidence import GATED, Evidence
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.words import listed, named, number

FORGOTTEN = 1.2e-7
EXPLODED, BURST = 1e4, 1e8
CALLS = 8
"""A layer that is called so often in a row is a recurrent one that was written by hand."""


def _through_time(evidence: Evidence) -> Iterator[tuple[str, str, Sequence[float]]]:
    """Name, kind and gradient sizes, first step to last, of all that recurs."""
    for layer in evidence.layers:
        if layer.steps is not None and len(layer.steps) > 1 and all(map(math.isfinite, layer.steps)):
            yield layer.name, layer.kind, layer.steps
    calls: dict[tuple[str, ...], list[int]] = {}
    for i, layer in enumerate(evidence.layers):
        if evidence.live[i] and layer.weights and layer.steps is None:
            calls.setdefault(layer.weights, []).append(i)
    for places in calls.values():
        if len(places) >= CALLS and _in_a_row(evidence, places):
            first = evidence.layers[places[0]]
            yield first.name, first.kind, [evidence.gradient(i) for i in places]


def _in_a_row(evidence: Evidence, places: Sequence[int]) -> bool:
    """Whether each call reads, at some distance, the one before."""
    own, last = set(places), [-1] * len(evidence.layers)
    for i in range(places[0], places[-1] + 1):
        last[i] = max((last[source] for source in evidence.layers[i].sources), default=-1)
        if i in own:
            if i != places[0] and last[i] != places[places.index(i) - 1]:
                return False
            last[i] = i
    return True


def _vanishing(evidence: Evidence) -> Found | None:
    return _found(evidence, _remembered, lambda value: value < FORGOTTEN, FORGOTTEN, _say_vanishing)


def _exploding(evidence: Evidence) -> Found | None:
    found = _found(evidence, lambda steps: -_growth(steps), lambda value: value < -EXPLODED, EXPLODED, _say_exploding)
    return found


def _found(
    evidence: Evidence,
    measure: Callable[[Sequence[float]], float],
    bad: Callable[[float], bool],
    threshold: float,
    say: Callable[[float, str, str, int], str],
) -> Found | None:
    """The layers whose measure is bad, smallest first."""
    found = sorted(
        (value, name, kind, len(steps)) for name, kind, steps in _through_time(evidence) if bad(value := measure(steps))
    )
    if not found:
        return None
    value, name, _, steps = found[0]
    names = tuple(name for _, name, _, _ in found)
    convertible = any(kind in GATED for _, _, kind, _ in found)
    return Found(
        names,
        abs(value),
        threshold,
        say(abs(value), named(name), "" if len(names) == 1 else f" It is so in {listed(names)}.", steps),
        Severity.ERROR if -value > BURST else None,
        call="sc.convert(model); sc.calibrate(model, inputs)" if convertible else None,
    )


def _remembered(steps: Sequence[float]) -> float:
    """Largest gradient in the first tenth of the steps over the largest of all; 1 if there is nothing to say."""
    early, largest = max(steps[: max(1, len(steps) // 10)]), max(steps)
    if largest == 0 or (early == 0 and _cut(steps, largest)):
        return 1.0
    return early / largest


def _cut(steps: Sequence[float], largest: float) -> bool:
    """Whether the gradient ends at once: the sequence was cut, or these steps are padding."""
    return next(step for step in steps if step > 0) > 1e-3 * largest


def _growth(steps: Sequence[float]) -> float:
    """Largest gradient over that of the last step that has one; 1 if there is nothing to say."""
    return max(steps) / next((step for step in reversed(steps) if step > 0), math.inf) if max(steps) > 0 else 1.0


def _say_vanishing(value: float, name: str, others: str, steps: int) -> str:
    return (
        f"Of the gradient through time in {name}, {number(value)} of the largest is left at the first steps: what they"
        f" read cannot be learned.{others}"
    )


def _say_exploding(value: float, name: str, others: str, steps: int) -> str:
    return f"The gradient through time in {name} grows by {number(value)} from the last step to the first ones.{others}"


VANISHING = Rule(
    id="SC103",
    name="gradient vanishes through time",
    severity=Severity.WARNING,
    formula=(
        r"$\max_{t \le T/10} g_t < \text{forgotten} \cdot \max_t g_t$, with the gradient size $g_t$ at step $t$ of a "
        "recurrent layer, or at call $t$ of a layer that is called eight times or more, each time on what the last"
        " call gave"
    ),
    thresholds={"forgotten": FORGOTTEN},
    source=(
        "Arithmetic: all steps share their weights, so their gradients are added up, and float32 rounds away what is"
        " below 1.2e-7 of the sum. PyTorch's `nn.LSTM`, as drawn, halves the gradient with each step, and falls below"
        " that after some 25 steps if the loss reads the last one only."
    ),
    why=(
        "What the first steps read has no influence on the weights: dependences that are as long as the sequence are"
        " not learned. Steps that get exactly 0 (padding, a cut sequence) are left alone."
    ),
    remedy=(
        "Set the slopes of the gates from a batch, before training (`convert`, `calibrate`); start the bias of an"
        " LSTM's forget gate at 1 or more; or use orthogonal recurrent weights, shorter sequences, or a loss that"
        " reads every step."
    ),
    check=_vanishing,
    hidden_by=("SC401",),
)

EXPLODING = Rule(
    id="SC104",
    name="gradient explodes through time",
    severity=Severity.WARNING,
    formula=r"$\max_t g_t > \text{exploded} \cdot g_T$, as SC103; $g_T$ is that of the last step that has a gradient",
    thresholds={"exploded": EXPLODED, "error above": BURST},
    source=(
        "Arithmetic: where a loss reads every step, a level gradient gathers on the way back, at most by the number of"
        " steps; 1e4 is beyond a thousand of them."
    ),
    why="One long sequence sets the whole step. Clipping keeps it finite, and throws away what the other samples say.",
    remedy=(
        "Draw orthogonal recurrent weights, or smaller ones; use a layer with gates (GRU, LSTM); clip the gradient."
    ),
    check=_exploding,
    hidden_by=("SC401",),
)
